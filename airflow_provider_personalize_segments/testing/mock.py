"""Personalize batch jobs and S3 for boto3 in this process."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar, overload

from botocore.awsrequest import AWSPreparedRequest
from botocore.exceptions import ConnectionClosedError
from moto import mock_aws
from moto.core.models import MockAWS, botocore_stubber

from airflow_provider_personalize_segments.testing.control import PersonalizeControl
from airflow_provider_personalize_segments.testing.exceptions import ConnectionDropped
from airflow_provider_personalize_segments.testing.records import ProgressMode, StatusNames

F = TypeVar("F", bound=Callable[..., Any])


class MockPersonalize:
    """
    What :func:`mock_personalize` returns: a context manager, and a decorator.

    :param make_control: makes the control of each use
    """

    def __init__(self, make_control: Callable[[], PersonalizeControl]) -> None:
        self._make_control = make_control
        self._entered: list[tuple[PersonalizeControl, MockAWS]] = []
        # Wrong options are to show where they are written.
        make_control()

    def __enter__(self) -> PersonalizeControl:
        control = self._make_control()
        control._install()
        aws = mock_aws()
        try:
            aws.__enter__()
        except BaseException:
            control._uninstall()
            raise
        process = botocore_stubber.process_request
        botocore_stubber.process_request = _watch(control, process)  # type: ignore[assignment, method-assign]
        self._entered.append((control, aws))
        return control

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        control, aws = self._entered.pop()
        # The method of the class shows again.
        del botocore_stubber.process_request
        aws.__exit__(error_type, error, traceback)
        control._uninstall()

    def __call__(self, function: F) -> F:
        """
        Let the function run inside; a parameter named ``personalize`` gets the control.

        :param function: a function or method
        :raises TypeError: for a coroutine function, a generator function, or a class
        """
        if not inspect.isroutine(function) or _runs_later(function):
            raise TypeError(
                f"mock_personalize decorates functions that run when they are called, got {function!r}. "
                "Use it as a context manager inside, or take the fixture personalize."
            )
        signature = inspect.signature(function)
        wants_control = "personalize" in signature.parameters

        def run(*args: Any, **named: Any) -> Any:
            with self as control:
                return function(*args, **({**named, "personalize": control} if wants_control else named))

        wrapper: Any = functools.wraps(function)(run)

        # pytest would look for a fixture of this name.
        wrapper.__signature__ = signature.replace(
            parameters=[each for name, each in signature.parameters.items() if name != "personalize"]
        )
        return wrapper  # type: ignore[no-any-return]  # it stands in for the function, of the same type


def _runs_later(function: object) -> bool:
    kinds = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    return any(is_kind(function) for is_kind in kinds)


@overload
def mock_personalize(function: F, /) -> F: ...
@overload
def mock_personalize(
    *,
    seed: int = 0,
    statuses: StatusNames = "observed",
    progress: ProgressMode = "immediately",
    seconds: float = 1.0,
    calls: int = 1,
    users: int = 1000,
) -> MockPersonalize: ...
def mock_personalize(
    function: F | None = None,
    /,
    *,
    seed: int = 0,
    statuses: StatusNames = "observed",
    progress: ProgressMode = "immediately",
    seconds: float = 1.0,
    calls: int = 1,
    users: int = 1000,
) -> F | MockPersonalize:
    """
    Give boto3 in this process Personalize batch jobs, and all services of moto's, with dummy credentials.

    As a context manager it gives the control::

        with mock_personalize(progress="by_time", seconds=60) as personalize:
            arn = personalize.add_solution_version()

    As a decorator, with or without parentheses, it hands the control to a parameter named ``personalize``::

        @mock_personalize
        def test_gate(personalize): ...

    Everything is forgotten when it ends. Only one can be active in a process at a time.

    :param function: the function to decorate, when there are no parentheses
    :param seed: decides the users and items in output, version identifiers and chance; the same seed gives
        the same
    :param statuses: ``observed`` for the statuses real jobs have shown, CREATE PENDING, CREATE IN_PROGRESS
        and ACTIVE; ``documented`` for those of the API reference, PENDING, IN PROGRESS and ACTIVE. A job
        that fails is CREATE FAILED either way.
    :param progress: ``immediately``, a job is finished when Create returns; ``by_time``, every ``seconds``
        one step; ``by_call``, each status is seen ``calls`` times by Describe or List; ``by_hand``, only
        ``advance()`` and ``set_status()`` move it
    :param seconds: how long a job stays in each status, with ``by_time``
    :param calls: how often each status is seen, with ``by_call``
    :param users: how many users there are, and how many items; no record names more

    .. seealso:: https://docs.getmoto.org/en/latest/docs/getting_started.html
    """
    mock = MockPersonalize(
        functools.partial(
            PersonalizeControl,
            seed=seed,
            statuses=statuses,
            progress=progress,
            seconds=seconds,
            calls=calls,
            users=users,
        )
    )
    return mock if function is None else mock(function)


def _watch(control: PersonalizeControl, process: Callable[..., Any]) -> Callable[[AWSPreparedRequest], Any]:
    def process_request(request: AWSPreparedRequest) -> Any:
        # Before S3 is read too, so that output is there when it is due.
        control.settle()
        try:
            return process(request)
        except ConnectionDropped:
            raise ConnectionClosedError(endpoint_url=request.url) from None

    return process_request
