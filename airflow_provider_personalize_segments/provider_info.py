"""What Airflow discovers about this package, as data."""

from __future__ import annotations

from typing import Any

from airflow_provider_personalize_segments import __version__


def get_provider_info() -> dict[str, Any]:
    """
    Return the provider's description, for the entry point ``apache_airflow_provider``.

    There is no connection type among it: the amazon provider's ``aws`` serves.

    .. seealso:: https://airflow.apache.org/docs/apache-airflow-providers/howto/create-custom-providers.html
    """
    return {
        # Must equal the distribution's name: where it does not, every `airflow providers` command fails.
        "package-name": "airflow-provider-personalize-segments",
        "name": "Amazon Personalize batch jobs",
        "description": (
            "Create, list and wait for Amazon Personalize batch jobs, and write their output as Parquet."
        ),
        "versions": [__version__],
        "integrations": [
            {
                "integration-name": "Amazon Personalize",
                "external-doc-url": "https://docs.aws.amazon.com/personalize/",
                "tags": ["aws"],
            }
        ],
        "operators": [
            {
                "integration-name": "Amazon Personalize",
                "python-modules": ["airflow_provider_personalize_segments.operators"],
            }
        ],
        "sensors": [
            {
                "integration-name": "Amazon Personalize",
                "python-modules": ["airflow_provider_personalize_segments.sensors"],
            }
        ],
        "triggers": [
            {
                "integration-name": "Amazon Personalize",
                "python-modules": ["airflow_provider_personalize_segments.triggers"],
            }
        ],
        # Airflow shows a link, and on 2.11 makes it, only when its class is listed here.
        "extra-links": [
            "airflow_provider_personalize_segments.links.PersonalizeConsoleLink",
            "airflow_provider_personalize_segments.links.S3OutputLink",
        ],
        "hooks": [
            {
                "integration-name": "Amazon Personalize",
                "python-modules": ["airflow_provider_personalize_segments.hooks"],
            }
        ],
    }
