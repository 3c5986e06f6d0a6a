"""How long to wait after an attempt that brought no job, on a worker and in the triggerer."""

from __future__ import annotations

import random

FULL_INTERVALS = 4
"""The most intervals between two attempts while no more jobs may run."""


def find_delay(count: int, interval: float, *, is_full: bool) -> float:
    """
    Return how many seconds to wait after an attempt that brought no job.

    A full quota changes when a job ends, so AWS is asked at the interval, then a little less often; a fault
    may be over in a moment. Both delays are random, so that tasks do not ask at the same moment.

    :param count: how many such attempts there were in a row
    :param interval: seconds between two calls about a job
    :param is_full: whether AWS lets no more jobs run at a time
    """
    shortest, longest = (interval, interval * FULL_INTERVALS) if is_full else (1.0, interval)
    return min(shortest * 2.0 ** min(count - 1, 16), longest) * random.uniform(0.5, 1.0)


class Pauses:
    """Counts attempts in vain, of one sort in a row."""

    def __init__(self) -> None:
        self.count = 0
        self._is_full = False

    def add(self, *, is_full: bool) -> None:
        """
        Count one.

        :param is_full: its sort: whether AWS lets no more jobs run at a time
        """
        self.count = self.count + 1 if is_full == self._is_full else 1
        self._is_full = is_full
