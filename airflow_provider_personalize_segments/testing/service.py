"""The local Personalize itself: its stores, what it does with a call, and its place in moto."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, ClassVar, cast, get_args

import moto.personalize as moto_personalize
from botocore.loaders import Loader
from botocore.regions import EndpointResolver
from moto.core.base_backend import BackendDict
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.personalize import urls

from airflow_provider_personalize_segments.arns import parse_job_arn
from airflow_provider_personalize_segments.jobs import ACTIVE_STATUS
from airflow_provider_personalize_segments.testing.backend import BatchJobsBackend
from airflow_provider_personalize_segments.testing.changes import ChangeFeed
from airflow_provider_personalize_segments.testing.faults import Call, CallLog, Fault, Faults
from airflow_provider_personalize_segments.testing.output import Population
from airflow_provider_personalize_segments.testing.records import (
    ProgressMode,
    Settings,
    StatusNames,
    read_clock,
)
from airflow_provider_personalize_segments.testing.responses import BatchJobsResponse
from airflow_provider_personalize_segments.testing.roles import refused_on_request

STATUSES = {
    "observed": ("CREATE PENDING", "CREATE IN_PROGRESS", ACTIVE_STATUS),
    "documented": ("PENDING", "IN PROGRESS", ACTIVE_STATUS),
}
# Where moto looks for the stores of the service.
_PACKAGE: Any = moto_personalize
PROGRESS_MODES = get_args(ProgressMode)


class PersonalizeService:
    """
    A local Personalize, to be seeded and driven by what derives from it.

    :param seed: as all parameters: see :class:`~.testing.control.PersonalizeControl`
    """

    _active: ClassVar[PersonalizeService | None] = None

    def __init__(
        self,
        *,
        seed: int = 0,
        statuses: StatusNames = "observed",
        progress: ProgressMode = "immediately",
        seconds: float = 1.0,
        calls: int = 1,
        users: int = 1000,
    ) -> None:
        if statuses not in STATUSES:
            raise ValueError(f"statuses: expected one of {', '.join(STATUSES)}, got {statuses!r}.")
        if progress not in PROGRESS_MODES:
            raise ValueError(f"progress: expected one of {', '.join(PROGRESS_MODES)}, got {progress!r}.")
        if calls < 1 or users < 1 or seconds < 0:
            raise ValueError("calls and users must be 1 or more, seconds 0 or more.")
        self.account_id = DEFAULT_ACCOUNT_ID
        """The account that dummy credentials belong to."""
        self.calls = CallLog()
        """The Personalize calls received, botocore's own retries included."""
        self.faults = Faults(seed)
        """Makes calls go wrong."""
        self._changes = ChangeFeed()
        self._settings = Settings(
            steps=STATUSES[statuses],
            progress=progress,
            seconds=seconds,
            calls=calls,
            population=Population(seed, users),
            on_change=self._changes.note,
        )
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        self._backends: BackendDict[BatchJobsBackend] = BackendDict(
            # A factory that knows the settings and the wire format in place of a class.
            cast(type[BatchJobsBackend], self._make_backend),
            "personalize",
            use_boto3_regions=False,
            additional_regions=_all_regions(),
        )

    # --- For the wire -----------------------------------------------------------------------------

    def backend(self, region_name: str, account_id: str | None = None) -> BatchJobsBackend:
        """Return the store of an account and region; the wire format asks for it."""
        return self._backends[account_id or self.account_id][region_name]

    def receive(
        self, operation: str, parameters: dict[str, Any], region_name: str, caller_arn: str
    ) -> list[Fault]:
        """Note a call and return what is to go wrong with it; the wire format says so."""
        faults = self.faults.draw(operation)
        moment = datetime.fromtimestamp(read_clock(), UTC)
        names = tuple(fault.name for fault in faults)
        self.calls.append(Call(operation, parameters, moment, region_name, names, caller_arn))
        return faults

    def wait(self, seconds: float) -> None:
        """Wait so long, or until it stops."""
        self._stopping.wait(seconds)

    def settle(self) -> None:
        """Carry out what has become due."""
        with self.hold():
            pass

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Have the stores alone, with all that has become due carried out; then tell of the changes."""
        with self._lock:
            now = read_clock()
            for backend in self._all_backends():
                backend.settle(now)
            yield
        self._changes.tell()

    # --- Inside -----------------------------------------------------------------------------------

    def _install(self) -> None:
        """Take the place of moto's Personalize."""
        if PersonalizeService._active is not None:
            raise RuntimeError(
                "A local Personalize is active in this process already. moto's state belongs to the whole "
                "process, so use one at a time."
            )
        PersonalizeService._active = self
        self._stopping.clear()
        self._exits = contextlib.ExitStack()
        self._exits.enter_context(refused_on_request(self.faults))
        self._replaced = _PACKAGE.personalize_backends
        _PACKAGE.personalize_backends = self._backends

    def _uninstall(self) -> None:
        """Give moto's Personalize its place back."""
        self._stopping.set()
        self._exits.close()
        _PACKAGE.personalize_backends = self._replaced
        PersonalizeService._active = None

    def _make_backend(self, region_name: str, account_id: str) -> BatchJobsBackend:
        backend = BatchJobsBackend(region_name, account_id, self._settings)
        backend.url_module = SimpleNamespace(
            url_bases=urls.url_bases, url_paths=dict.fromkeys(urls.url_paths, self._dispatch)
        )
        return backend

    def _dispatch(self, request: Any, full_url: str, headers: Any) -> Any:
        return BatchJobsResponse(self)._dispatch(request, full_url, headers)

    def _all_backends(self) -> list[BatchJobsBackend]:
        return [backend for account in list(self._backends.values()) for backend in list(account.values())]

    def _backend_of(self, job_arn: str) -> BatchJobsBackend:
        parts = parse_job_arn(job_arn)
        return self.backend(parts.region, parts.account_id)


@functools.cache
def _all_regions() -> list[str]:
    """Return the regions of every partition; moto knows only those where Personalize is sold."""
    resolver = EndpointResolver(Loader().load_data("endpoints"))
    return [
        region
        for partition in resolver.get_available_partitions()
        for region in resolver.get_available_endpoints("ec2", partition)
    ]
