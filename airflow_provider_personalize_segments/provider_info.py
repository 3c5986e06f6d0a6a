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
        "config": {
            "personalize": {
                "description": "Settings of the operators for Amazon Personalize batch jobs.",
                "options": {
                    "job_name_prefix": {
                        "description": (
                            "Begins the name of every job that a create operator names by itself, and is "
                            "part of what ``if_exists='new'`` adds to a name: at most 16 letters, digits, "
                            "``-`` and ``_``. Two Airflows that run the same DAG in one AWS account need "
                            "different ones.\n"
                        ),
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "prod",
                        "default": "",
                    }
                },
            }
        },
        "hooks": [
            {
                "integration-name": "Amazon Personalize",
                "python-modules": ["airflow_provider_personalize_segments.hooks"],
            }
        ],
    }
