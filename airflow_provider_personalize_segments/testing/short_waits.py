"""Shorter waits for the tasks of a DAG while a test runs it."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import cache
from typing import Any

from airflow_provider_personalize_segments.testing.prepared_airflow import replaced


@contextlib.contextmanager
def shorten_waits(dag: Any, interval: float | None, timeout: float | None) -> Iterator[None]:
    """
    Cap the waits of all tasks, which are for jobs of half an hour, and give the tasks theirs back.

    A wait that cannot be read stays as it is: the task is to fail as it would without the cap.

    :param dag: the DAG
    :param interval: the most seconds between two looks, and between two tries; ``None`` changes neither
    :param timeout: the most seconds that a task waits; ``None`` changes nothing
    """
    with contextlib.ExitStack() as exits:
        for task in dag.tasks:
            if hasattr(task, "_disallow_kwargs_override"):
                # What expand_kwargs() is given may be known only when the task runs; then it comes first.
                exits.enter_context(replaced(task, "_disallow_kwargs_override", False))
            for name, limit in _find_waits(task, interval, timeout).items():
                exits.enter_context(_capped(_values_of(task), name, limit))
        exits.enter_context(_capped_paces(interval, timeout))
        if interval is not None:
            exits.enter_context(_without_pause_before_events())
        yield


def _find_waits(task: Any, interval: float | None, timeout: float | None) -> dict[str, Any]:
    """Return the limits for one task, by the names of its parameters."""
    kind: Any = getattr(task, "operator_class", type(task))
    limits: dict[str, Any] = {} if interval is None else {"retry_delay": timedelta(seconds=interval)}
    # A create operator's waits are templates, and capped once they are read.
    names = set() if _is_creating(kind) else {*_values_of(task), *_parameters(kind)}
    if intervals := names & {"poke_interval", "poll_interval"}:
        if interval is not None:
            limits |= dict.fromkeys(intervals, interval)
        # Other tasks than those that wait may mean something else by it.
        if timeout is not None:
            limits["timeout"] = timeout
    mapped_over = getattr(getattr(task, "expand_input", None), "value", {})
    if isinstance(mapped_over, Mapping):
        limits = {name: limit for name, limit in limits.items() if name not in mapped_over}
    return limits


def _is_creating(kind: Any) -> bool:
    from airflow_provider_personalize_segments.creating.task import CreateBatchJobOperator

    return isinstance(kind, type) and issubclass(kind, CreateBatchJobOperator)


@cache
def _parameters(kind: Any) -> frozenset[str]:
    """Return the names of an operator's parameters, those of the classes it inherits from included."""
    found: set[str] = set()
    for each in getattr(kind, "__mro__", ()):
        with contextlib.suppress(TypeError, ValueError):
            found.update(inspect.signature(each.__init__).parameters)
    return frozenset(found)


def _values_of(task: Any) -> dict[str, Any]:
    # A mapped task makes its instances from these.
    partial: dict[str, Any] | None = getattr(task, "partial_kwargs", None)
    return vars(task) if partial is None else partial


@contextlib.contextmanager
def _capped(values: dict[str, Any], name: str, limit: Any) -> Iterator[None]:
    old = values.get(name)
    seconds, most = _seconds_of(old), _seconds_of(limit)
    if old is not None and (seconds is None or not seconds > (most or 0.0)):
        yield
        return
    had = name in values
    values[name] = limit
    try:
        yield
    finally:
        if had:
            values[name] = old
        else:
            del values[name]


def _seconds_of(value: Any) -> float | None:
    """Return the seconds of a length of time; ``None`` when it is none."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


@contextlib.contextmanager
def _capped_paces(interval: float | None, timeout: float | None) -> Iterator[None]:
    """Cap the waits of create operators, once they are rendered and found to be right."""
    from airflow_provider_personalize_segments.creating import rendered

    module: Any = rendered
    make_pace = module.Pace

    def make_capped(given_interval: float, given_timeout: float) -> Any:
        return make_pace(
            given_interval if interval is None else min(given_interval, interval),
            given_timeout if timeout is None else min(given_timeout, timeout),
        )

    with replaced(module, "Pace", make_capped):
        yield


@contextlib.contextmanager
def _without_pause_before_events() -> Iterator[None]:
    """Take away a pause that only a scheduler and a worker need."""
    from airflow_provider_personalize_segments.waiting import trigger

    before = trigger.LONGEST_PAUSE
    trigger.LONGEST_PAUSE = 0.0
    try:
        yield
    finally:
        trigger.LONGEST_PAUSE = before
