"""What Python, botocore and Airflow do again and again in a process that runs many tasks, and need not."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

from botocore import hooks
from botocore.loaders import JSONFileLoader, Loader


def spare_botocore() -> None:
    """
    Let botocore read its models, list its services and look at its handlers once, and not for every session.

    Doing so for every session would be half of what the tests compute.
    """
    JSONFileLoader.load_file = staticmethod(cache(JSONFileLoader().load_file))
    Loader.list_available_services = _list_services_once(Loader.list_available_services)
    hooks.accepts_kwargs = _look_once(hooks.accepts_kwargs)


def spare_painting() -> None:
    """Let Airflow 3.0 print tracebacks as plain text, as 3.1 does: painting one takes longer than a task."""
    from structlog import dev  # which Airflow 2 does not bring

    dev.RichTracebackFormatter.__call__ = lambda _, stream, error: dev.plain_traceback(stream, error)


def spare_collector() -> None:
    """Leave the million objects that Airflow is made of out of what Python's collector goes through."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def _list_services_once(list_services: Callable[..., list[str]]) -> Callable[..., list[str]]:
    known: dict[Any, list[str]] = {}

    def list_once(loader: Loader, type_name: str) -> list[str]:
        key = (type_name, *loader.search_paths)
        if key not in known:
            known[key] = list_services(loader, type_name)
        return known[key]

    return list_once


def _look_once(look: Callable[[Any], bool]) -> Callable[[Any], bool]:
    known: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()  # handlers hold clients, which tests count

    def look_once(handler: Any) -> bool:
        answer = known.get(handler)
        if answer is None:
            answer = known[handler] = look(handler)
        return answer

    return look_once
