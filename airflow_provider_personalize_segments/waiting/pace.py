"""How often a task asks about its job, and how long it waits."""

from __future__ import annotations

from typing import NamedTuple


class Pace(NamedTuple):
    """
    How often a task asks, and how long it waits.

    :param interval: seconds between two calls about the job
    :param timeout: seconds from the start of the try until it gives up
    :param exponential_backoff: whether the interval doubles from call to call in the triggerer
    :param max_wait: the most seconds that it may grow to
    :param silent_fail: whether to go on waiting after an unexpected error
    """

    interval: float
    timeout: float
    exponential_backoff: bool = False
    max_wait: float | None = None
    silent_fail: bool = False
