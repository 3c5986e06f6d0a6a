"""The store of what batch jobs refer to: solution versions, and filters."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from moto.personalize.models import PersonalizeBackend

from airflow_provider_personalize_segments.jobs import ACTIVE_STATUS
from airflow_provider_personalize_segments.testing.exceptions import ResourceNotFoundException
from airflow_provider_personalize_segments.testing.records import Settings, SolutionVersion, read_clock


class SolutionVersionsBackend(PersonalizeBackend):
    """
    moto's Personalize backend with solution versions and filters.

    :param region_name: the region
    :param account_id: the account
    :param settings: what the caller chose
    """

    def __init__(self, region_name: str, account_id: str, settings: Settings) -> None:
        super().__init__(region_name, account_id)
        self.settings = settings
        self.solution_versions: dict[str, SolutionVersion] = {}
        self.filters: dict[str, dict[str, Any]] = {}

    def add_solution_version(self, name: str, recipe: str, dataset_group: str, status: str) -> str:
        """
        Add a solution version, or give the one that is there another status.

        :param name: name of the solution
        :param recipe: name of the recipe
        :param dataset_group: name of the dataset group
        :param status: ``ACTIVE`` when jobs may use it
        """
        identity = json.dumps([self.settings.population.seed, name, recipe, dataset_group])
        version = hashlib.sha256(identity.encode()).hexdigest()[:8]
        arn = self.make_arn(f"solution/{name}/{version}")
        self.solution_versions[arn] = SolutionVersion(
            arn=arn,
            name=f"{name}-{version}"[:63],
            recipe=recipe,
            dataset_group_arn=self.make_arn(f"dataset-group/{dataset_group}"),
            recipe_arn=f"arn:{self.partition}:personalize:::recipe/{recipe}",
            status=status,
            created=read_clock(),
        )
        return arn

    def add_filter(self, name: str, expression: str, dataset_group: str) -> str:
        """
        Add a filter, or give the one that is there another expression.

        :param name: name of the filter
        :param expression: its expression
        :param dataset_group: name of its dataset group
        """
        arn, now = self.make_arn(f"filter/{name}"), read_clock()
        self.filters[arn] = {
            "name": name,
            "filterArn": arn,
            "creationDateTime": now,
            "lastUpdatedDateTime": now,
            "datasetGroupArn": self.make_arn(f"dataset-group/{dataset_group}"),
            "filterExpression": expression,
            "status": ACTIVE_STATUS,
        }
        return arn

    def describe_filter(self, arn: str) -> dict[str, Any]:
        """
        Return a filter as the API does.

        :param arn: ARN of the filter
        :raises ResourceNotFoundException: when it was not added
        """
        if arn not in self.filters:
            raise ResourceNotFoundException(arn)
        return self.filters[arn]

    def describe_solution_version(self, arn: str) -> dict[str, Any]:
        """
        Return a solution version as the API does.

        :param arn: the solution version's ARN
        """
        return self.find_solution_version(arn).describe()

    def find_solution_version(self, arn: str) -> SolutionVersion:
        """
        Return a solution version.

        :param arn: the solution version's ARN
        :raises ResourceNotFoundException: when it was not added
        """
        if arn not in self.solution_versions:
            raise ResourceNotFoundException(arn)
        return self.solution_versions[arn]

    def make_arn(self, resource: str) -> str:
        """
        Return an ARN of this account and region.

        :param resource: what comes last in it, such as ``filter/name``
        """
        return f"arn:{self.partition}:personalize:{self.region_name}:{self.account_id}:{resource}"
