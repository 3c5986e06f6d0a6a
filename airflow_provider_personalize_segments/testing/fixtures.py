"""pytest fixtures for suites that test DAGs with batch jobs.

The top ``conftest.py`` asks for them::

    pytest_plugins = ["airflow_provider_personalize_segments.testing.fixtures"]

Use one of the two in a test, not both: there can be only one local Personalize in a process at a time.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from airflow_provider_personalize_segments.testing.control import PersonalizeControl
from airflow_provider_personalize_segments.testing.mock import mock_personalize
from airflow_provider_personalize_segments.testing.server import LocalPersonalize


@pytest.fixture
def personalize() -> Iterator[PersonalizeControl]:
    """Batch jobs and S3 for boto3 in this process; jobs are finished when Create returns."""
    with mock_personalize() as control:
        yield control


@pytest.fixture
def local_personalize() -> Iterator[LocalPersonalize]:
    """Batch jobs and S3 on a loopback port, for other processes; jobs are finished when Create returns."""
    with LocalPersonalize() as control:
        yield control
