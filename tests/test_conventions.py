"""One suite over every public class: what users rely on without reading."""

from __future__ import annotations

import inspect
import pkgutil
import re
from importlib import import_module
from pathlib import Path

import pytest
from airflow.exceptions import AirflowException

import airflow_provider_personalize_segments as package
from airflow_provider_personalize_segments import errors, operators, sensors
from airflow_provider_personalize_segments.airflow_compat import BaseOperator

PACKAGE = Path(package.__file__).parent


def public_classes(*modules):
    return [
        each
        for module in modules
        for name, each in vars(module).items()
        if inspect.isclass(each) and each.__module__ == module.__name__ and not name.startswith("_")
    ]


TASKS = [each for each in public_classes(sensors, operators) if hasattr(each, "kind")]
CONNECTION = {"aws_conn_id": "aws_default", "region_name": None, "verify": None, "botocore_config": None}


def own_parameters(task):
    """What our classes add to Airflow's."""
    found = {}
    for each in task.__mro__:
        if each.__module__.startswith("airflow_provider_personalize_segments"):
            for parameter in inspect.signature(each.__init__).parameters.values():
                if parameter.kind is parameter.KEYWORD_ONLY:
                    found[parameter.name] = parameter.default
    return found


def test_there_are_tasks_to_test():
    assert {each.__name__ for each in TASKS} == {
        "PersonalizeBatchSegmentJobSensor",
        "PersonalizeBatchInferenceJobSensor",
        "PersonalizeListBatchSegmentJobsOperator",
        "PersonalizeListBatchInferenceJobsOperator",
        "PersonalizeCreateBatchSegmentJobOperator",
        "PersonalizeCreateBatchInferenceJobOperator",
        "PersonalizeSegmentsToParquetOperator",
        "PersonalizeRecommendationsToParquetOperator",
    }


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.__name__)
class TestTask:
    def test_every_parameter_is_templated(self, task):
        assert set(task.template_fields) == set(own_parameters(task))

    def test_takes_the_connection_parameters_with_their_defaults(self, task):
        assert {name: own_parameters(task)[name] for name in CONNECTION} == CONNECTION

    def test_every_parameter_is_documented(self, task):
        documented = {
            name
            for each in task.__mro__
            if each.__module__.startswith("airflow_provider_personalize_segments")
            for name in re.findall(r":param (\w+):", each.__doc__ or "")
        }
        assert set(own_parameters(task)) <= documented

    def test_the_constructor_only_stores(self, task):
        marks = {name: object() for name in own_parameters(task)}
        made = task(task_id="t", **marks)
        assert {name: getattr(made, name) for name in marks} == marks

    def test_default_args_reach_every_parameter(self, task):
        marks = {name: f"{{{{ {name} }}}}" for name in own_parameters(task)}
        made = task(task_id="t", default_args=marks)
        assert {name: getattr(made, name) for name in marks} == marks

    def test_every_parameter_can_be_mapped(self, task):
        marks = {name: f"{{{{ {name} }}}}" for name in own_parameters(task)}
        for name in marks:
            rest = {other: value for other, value in marks.items() if other != name}
            mapped = task.partial(task_id="t", **rest).expand(**{name: [marks[name]]})
            assert mapped.operator_class is task

    def test_a_parameter_that_does_not_exist_is_refused(self, task):
        required = {
            name: "x" for name, default in own_parameters(task).items() if default is inspect.Parameter.empty
        }
        with pytest.raises((TypeError, AirflowException), match="job_arns"):  # on Airflow 3, and 2
            task(task_id="t", **required, job_arns="x")

    def test_templates_are_rendered_in_every_parameter(self, task):
        made = task(task_id="t", **dict.fromkeys(own_parameters(task), "{{ word }}"))
        made.render_template_fields({"word": "rendered"})
        assert {getattr(made, name) for name in own_parameters(task)} == {"rendered"}

    def test_is_an_operator_of_airflows_own_base(self, task):
        assert issubclass(task, BaseOperator)
        assert not any("amazon" in each.__module__ for each in task.__mro__)


@pytest.mark.parametrize("each", public_classes(errors), ids=lambda each: each.__name__)
def test_errors_end_in_error(each):
    assert each.__name__.endswith("Error")


ALL_MODULES = [
    import_module(each.name)
    for each in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if ".testing" not in each.name
]


@pytest.mark.parametrize(
    "each", public_classes(*ALL_MODULES), ids=lambda each: f"{each.__module__}.{each.__name__}"
)
def test_public_classes_and_methods_are_documented(each):
    assert inspect.getdoc(each)
    for name, member in vars(each).items():
        if not name.startswith("_") and inspect.isfunction(member):
            assert member.__doc__, f"{each.__name__}.{name}"


def test_the_other_kinds_name_is_written_in_one_place():
    modules = [
        path
        for path in PACKAGE.rglob("*.py")
        if not {"testing", "example_dags"} & {*path.relative_to(PACKAGE).parts}
    ]
    assert PACKAGE / "jobs.py" in modules
    # What only this kind's Create takes, an operator has to name.
    own = re.compile("batch_inference_job_(config|mode)")
    found = [path.name for path in modules if "batch_inference" in own.sub("", path.read_text())]
    assert found == ["jobs.py"]


def test_the_version_is_stated_once():
    pattern = re.compile(rf"{re.escape(package.__version__)}")
    pyproject = (PACKAGE.parent / "pyproject.toml").read_text()
    assert re.search(r"^dynamic = \[.*\"version\"", pyproject, re.MULTILINE)
    assert not re.search(rf'version = "{pattern.pattern}"', pyproject)
