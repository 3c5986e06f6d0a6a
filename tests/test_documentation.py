"""The documentation is whole, and true where a test can tell; ``make docs`` has Sphinx judge its links."""

from __future__ import annotations

import inspect
import re
import struct
from importlib import import_module

import pyarrow as pa
import pytest
from airflow.providers.amazon.aws.operators import bedrock, comprehend, sagemaker
from airflow.providers.amazon.aws.sensors import bedrock as bedrock_sensors
from airflow.providers.amazon.aws.sensors import comprehend as comprehend_sensors
from airflow.providers.amazon.aws.sensors import sagemaker as sagemaker_sensors
from airflow.providers.openlineage.get_provider_info import get_provider_info
from documents import DOCS, DOCUMENTS, name_of, section
from lines import HAS_RECORD

import airflow_provider_personalize_segments as package
from airflow_provider_personalize_segments import operators, sensors
from airflow_provider_personalize_segments.airflow_compat import conf
from airflow_provider_personalize_segments.jobs import BatchJobKind
from airflow_provider_personalize_segments.output import rows
from airflow_provider_personalize_segments.provider_info import get_provider_info as get_our_info

PUBLIC = ("sensors", "operators", "hooks", "triggers", "links", "jobs", "errors", "testing")
PICTURES = sorted((DOCS / "pictures").glob("*.[ps][nv]g"))


def public_names(module):
    """Return the classes and functions of a module that users see, by the module that they import."""
    loaded = import_module(f"{package.__name__}.{module}")
    names = getattr(loaded, "__all__", None) or [
        each
        for each, value in vars(loaded).items()
        if (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__ == loaded.__name__
    ]
    return {f"{loaded.__name__}.{each}" for each in names if not each.startswith("_")}


def described():
    """Return each name that a page of the reference describes, by the page."""
    return {
        path.stem: set(re.findall(r"^\.\. auto(?:class|exception|function):: (\S+)$", path.read_text(), re.M))
        for path in (DOCS / "reference").glob("*.md")
    }


@pytest.mark.parametrize("module", PUBLIC)
def test_the_reference_has_every_public_name(module):
    assert public_names(module)
    assert public_names(module) <= described()[module]


def test_the_reference_has_a_page_for_each_public_module_and_no_other():
    assert described().keys() == {*PUBLIC, "index"}
    assert all(f"\n{module}\n" in (DOCS / "reference" / "index.md").read_text() for module in PUBLIC)


def test_what_is_promised_to_stay_is_in_the_reference():
    table = section((DOCS / "upgrading.md").read_text(), "What stays")
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|$", table, re.MULTILINE)
    assert {module for module, _ in rows} == set(PUBLIC)
    for module, cell in rows:
        promised = {f"{package.__name__}.{module}.{each}" for each in re.findall(r"`(\w+)`", cell)}
        assert promised
        assert promised <= public_names(module)


def parameters_of(modules):
    classes = [each for module in modules for each in vars(module).values() if inspect.isclass(each)]
    return {
        parameter
        for each in classes
        for base in each.__mro__
        for parameter in inspect.signature(base.__init__).parameters
    }


def comparisons():
    text = (DOCS / "amazon-provider.md").read_text()
    return re.findall(r"^\| (`.*?) \| (.*?) \| .*\|$", text, re.MULTILINE)


def test_the_comparison_names_parameters_that_exist():
    theirs = parameters_of(
        (bedrock, comprehend, sagemaker, bedrock_sensors, comprehend_sensors, sagemaker_sensors)
    )
    ours = parameters_of((sensors, operators))
    assert len(comparisons()) >= 20
    for there, here in comparisons():
        assert set(re.findall(r"`(\w+)`", there)) <= theirs, there
        assert set(re.findall(r"`(\w+)`", here)) <= ours, here


@pytest.mark.parametrize(
    ("heading", "task"),
    [
        ("Waiting with a sensor", sensors.PersonalizeBatchSegmentJobSensor),
        ("Creating with an operator", operators.PersonalizeCreateBatchSegmentJobOperator),
        ("Creating with an operator", operators.PersonalizeCreateBatchInferenceJobOperator),
    ],
)
def test_every_name_of_the_comparison_is_a_parameter_here_or_answered(heading, task):
    part = section((DOCS / "amazon-provider.md").read_text(), heading)
    cells = re.findall(r"^\| (`[^|]*?) \|", part, re.MULTILINE)
    names = {each for cell in cells for each in re.findall(r"`(\w+)`", cell)}
    ours = {each for base in task.__mro__ for each in inspect.signature(base.__init__).parameters}
    assert len(names - ours) >= 4
    for name in names - ours:
        with pytest.raises(TypeError, match=f"has no parameter '{name}': "):
            task(task_id="t", **{name: 1})


def test_the_guide_to_listing_has_every_parameter():
    table = section((DOCS / "listing.md").read_text(), "Which jobs")
    told = [each for row in re.findall(r"^\| (`.*?) \|", table, re.M) for each in re.findall(r"`(\w+)`", row)]
    assert sorted(told) == sorted(operators.PersonalizeListBatchSegmentJobsOperator.template_fields)


def test_the_guide_to_tables_has_every_parameter():
    table = section((DOCS / "tables.md").read_text(), "Parameters")
    told = [each for row in re.findall(r"^\| (`.*?) \|", table, re.M) for each in re.findall(r"`(\w+)`", row)]
    assert sorted(told) == sorted(operators.PersonalizeSegmentsToParquetOperator.template_fields)


@pytest.mark.parametrize(
    ("heading", "place", "schema"),
    [
        ("The columns", 0, rows.make_schema(BatchJobKind.SEGMENT)),
        ("The columns", 1, rows.make_schema(BatchJobKind.INFERENCE)),
        ("Records with errors", 0, rows.ERRORS),
    ],
)
def test_the_guide_to_tables_has_every_column(heading, place, schema):
    found = section((DOCS / "tables.md").read_text(), heading).split("| column |")[1:]
    told = re.findall(r"^\| `(\w+)` \| (\w+) \|", found[place], re.MULTILINE)
    types = [field.type.value_type if pa.types.is_dictionary(field.type) else field.type for field in schema]
    assert told == list(zip(schema.names, map(str, types), strict=True))


@pytest.mark.filterwarnings("ignore:section/key .* has been deprecated")
@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_the_options_of_airflow_that_it_names_exist(document):
    # The two lines of Airflow have a name each for one thing.
    renamed = {"capacity": "default_capacity", "default_capacity": "capacity"}
    # Airflow itself knows a provider's options only after it has loaded all providers.
    of_providers = get_provider_info()["config"] | get_our_info()["config"]
    for group, option in re.findall(r"`\[(\w+)\] (\w+)`", document.read_text()):
        if group in of_providers:
            assert option in of_providers[group]["options"]
            continue
        if group == "state_store" and not HAS_RECORD:
            continue  # of Airflow 3.3
        assert any(conf.has_option(group, each) for each in (option, renamed.get(option, option))), option


def test_every_picture_is_shown_and_every_shown_picture_exists():
    shown = re.findall(r"!\[(.*?)\]\((.*?)\)", "".join(each.read_text() for each in DOCUMENTS))
    assert all(alt for alt, _ in shown)
    assert {path for _, path in shown} == {f"pictures/{path.name}" for path in PICTURES}


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.name)
def test_pictures_are_small(picture):
    content = picture.read_bytes()
    assert len(content) < 150_000
    if picture.suffix == ".svg":
        width = int(re.search(rb'width="(\d+)"', content)[1])
    else:
        width, _ = struct.unpack(">II", content[16:24])
    assert width <= 1400
