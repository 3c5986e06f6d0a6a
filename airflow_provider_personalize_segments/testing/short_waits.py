"""Shorter waits for the tasks of a DAG while a test runs it."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from typing import Any


@contextlib.contextmanager
def shorten_waits(dag: Any, interval: float | None, timeout: float | None) -> Iterator[None]:
    """
    Cap the waits of all tasks, which are for jobs of half an hour, and give the tasks theirs back.

    :param dag: the DAG
    :param interval: the most seconds between two looks, and between two tries; ``None`` changes neither
    :param timeout: the most seconds that a task waits; ``None`` changes nothing
    """
    with contextlib.ExitStack() as exits:
        for task in dag.tasks:
            for name, limit in _find_waits(task, interval, timeout).items():
                exits.enter_context(_capped(_values_of(task), name, limit))
        if interval is not None:
            exits.enter_context(_without_pause_before_events())
        yield


def _find_waits(task: Any, interval: float | None, timeout: float | None) -> dict[str, Any]:
    """Return the limits for one task, by the names of its parameters."""
    kind: Any = getattr(task, "operator_class", type(task))
    names = {*_values_of(task), *_parameters(kind)}
    intervals = names & {"poke_interval", "poll_interval"}
    limits: dict[str, Any] = {}
    if interval is not None:
        limits = {**dict.fromkeys(intervals, interval), "retry_delay": timedelta(seconds=interval)}
    # Other tasks than those that wait may mean something else by it.
    if timeout is not None and intervals:
        limits["timeout"] = timeout
    mapped_over = getattr(getattr(task, "expand_input", None), "value", {})
    return {name: limit for name, limit in limits.items() if name not in mapped_over}


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
    had, old = name in values, values.get(name)
    seconds = old.total_seconds() if isinstance(old, timedelta) else old
    most = limit.total_seconds() if isinstance(limit, timedelta) else limit
    if isinstance(seconds, (int, float)) and seconds <= most:
        yield
        return
    values[name] = limit
    try:
        yield
    finally:
        if had:
            values[name] = old
        else:
            del values[name]


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
