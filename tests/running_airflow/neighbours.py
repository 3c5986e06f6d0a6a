"""A trigger that is none of ours, and tells how well the triggerer treated it."""

import asyncio
import time

from airflow.triggers.base import BaseTrigger, TriggerEvent

STEP = 0.1


class SleepingTrigger(BaseTrigger):
    """Sleeps in short steps; its event says how long the longest of them took too long."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds

    def serialize(self):
        return "neighbours.SleepingTrigger", {"seconds": self.seconds}

    async def run(self):
        end, longest = time.monotonic() + self.seconds, 0.0
        while (begin := time.monotonic()) < end:
            await asyncio.sleep(STEP)
            longest = max(longest, time.monotonic() - begin - STEP)
        yield TriggerEvent({"longest_stall": longest})
