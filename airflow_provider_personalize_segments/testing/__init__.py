"""A local Amazon Personalize with batch jobs, and S3 beside it, for tests and demonstrations.

:func:`mock_personalize` is for boto3 in this process, :class:`LocalPersonalize` for any process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    import flask  # noqa: F401 - moto's server needs it, moto alone does not bring it
    import moto  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"The local Personalize needs {error.name}: "
        "pip install 'airflow-provider-personalize-segments[testing]'"
    ) from error

from airflow_provider_personalize_segments.testing.control import PersonalizeControl
from airflow_provider_personalize_segments.testing.mock import mock_personalize

if TYPE_CHECKING:
    from airflow_provider_personalize_segments.testing.runs import DagRunResult
    from airflow_provider_personalize_segments.testing.server import LocalPersonalize

__all__ = ["DagRunResult", "LocalPersonalize", "PersonalizeControl", "mock_personalize"]


def __getattr__(name: str) -> Any:
    # Not before it is asked for: Python warns when a module that `python -m` runs is imported already.
    if name == "LocalPersonalize":
        from airflow_provider_personalize_segments.testing.server import LocalPersonalize

        return LocalPersonalize
    if name == "DagRunResult":
        from airflow_provider_personalize_segments.testing.runs import DagRunResult

        return DagRunResult
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
