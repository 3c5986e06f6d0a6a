"""pytest fixtures for suites that test DAGs with batch jobs.

The top ``conftest.py`` asks for them::

    pytest_plugins = ["airflow_provider_personalize_segments.testing.fixtures"]

The marker ``personalize`` says how jobs advance, and everything else that ``mock_personalize()`` and
``LocalPersonalize()`` take, for a test, a class or a module::

    @pytest.mark.personalize(progress="by_hand")
    def test_it(personalize): ...

Indirect parametrization does the same with a dict. Use one of the two fixtures in a test, not both: there can
be only one local Personalize in a process at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from airflow_provider_personalize_segments.testing.control import PersonalizeControl
from airflow_provider_personalize_segments.testing.mock import mock_personalize
from airflow_provider_personalize_segments.testing.server import LocalPersonalize


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known, for ``--strict-markers``."""
    config.addinivalue_line(
        "markers",
        "personalize(*, seed, statuses, progress, seconds, calls, users): how the local Personalize of the "
        "fixtures personalize and local_personalize behaves",
    )


@pytest.fixture
def personalize(request: pytest.FixtureRequest) -> Iterator[PersonalizeControl]:
    """Batch jobs and S3 for boto3 in this process; jobs are finished when Create returns, unless marked."""
    with mock_personalize(**_read_options(request)) as control:
        yield control


@pytest.fixture
def local_personalize(request: pytest.FixtureRequest) -> Iterator[LocalPersonalize]:
    """Batch jobs and S3 on a loopback port, for all processes; the marker says the same as for the other."""
    with LocalPersonalize(**_read_options(request)) as control:
        yield control


def _read_options(request: pytest.FixtureRequest) -> dict[str, Any]:
    options: dict[str, Any] = {}
    # What is marked nearer to the test counts more; what it is parametrized with, most.
    for mark in reversed(list(request.node.iter_markers("personalize"))):
        if mark.args:
            raise TypeError(
                "The marker personalize takes options by name, such as progress='by_hand', "
                f"got {', '.join(map(repr, mark.args))}."
            )
        options.update(mark.kwargs)
    options.update(getattr(request, "param", {}))
    return options
