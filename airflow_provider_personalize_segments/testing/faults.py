"""What can go wrong between a caller and Amazon Personalize, on demand."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from airflow_provider_personalize_segments.testing.validation import service_model

FaultName = Literal[
    "throttle",
    "server_error",
    "drop_connection",
    "drop_answer",
    "slow",
    "deny_access",
    "malformed",
    "expired_token",
    "deny_role",
]


@dataclass
class Fault:
    """One thing that goes wrong, and how often."""

    name: FaultName
    times: int | None
    share: float | None
    operation: str | None
    status: int = 400
    seconds: float = 0.0
    action: str | None = None
    role_arn: str | None = None


class Faults:
    """
    Makes Personalize calls go wrong, and roles be refused.

    Every method but :meth:`deny_role` takes the same three parameters: ``times``, the next so many calls;
    ``share``, a share of the calls between 0.0 and 1.0, by seeded chance; ``operation``, such as
    ``DescribeBatchSegmentJob``, to spare the others. With neither ``times`` nor ``share`` every call goes
    wrong until :meth:`clear`; with both, a share of calls until so many went wrong. Of several faults that
    apply to one call, the one asked for first happens; :meth:`slow` happens besides.

    What cannot happen, such as an operation that Personalize does not have, is a ``ValueError``.

    botocore retries throttling, 5xx and lost connections by itself, up to four times by default; each of
    its attempts is a call.

    :param seed: seed of the chance that ``share`` is decided by
    """

    def __init__(self, seed: int = 0) -> None:
        self._lock = threading.Lock()
        self._chance = random.Random(seed)
        self._faults: list[Fault] = []

    def throttle(
        self, times: int | None = None, share: float | None = None, operation: str | None = None
    ) -> None:
        """Answer ThrottlingException."""
        self._add(Fault("throttle", times, share, operation))

    def server_error(
        self,
        times: int | None = None,
        share: float | None = None,
        operation: str | None = None,
        *,
        status: Literal[500, 503] = 500,
    ) -> None:
        """
        Answer InternalFailure or ServiceUnavailable.

        :param status: the HTTP status, 500 for the first, 503 for the second
        """
        if status not in (500, 503):
            raise ValueError(f"status: expected 500 or 503, got {status!r}.")
        self._add(Fault("server_error", times, share, operation, status=status))

    def drop_connection(
        self, times: int | None = None, share: float | None = None, operation: str | None = None
    ) -> None:
        """Close the connection instead of doing anything."""
        self._add(Fault("drop_connection", times, share, operation))

    def drop_answer(
        self, times: int | None = None, share: float | None = None, operation: str | None = None
    ) -> None:
        """Do what was asked, then close the connection instead of answering."""
        self._add(Fault("drop_answer", times, share, operation))

    def slow(
        self,
        seconds: float,
        times: int | None = None,
        share: float | None = None,
        operation: str | None = None,
    ) -> None:
        """
        Wait before doing what was asked.

        :param seconds: how long
        """
        self._add(Fault("slow", times, share, operation, seconds=seconds))

    def deny_access(
        self,
        times: int | None = None,
        share: float | None = None,
        operation: str | None = None,
        *,
        action: str | None = None,
    ) -> None:
        """
        Answer AccessDeniedException, as for a role whose policy lacks the action.

        :param action: the action that is lacking, such as ``iam:PassRole``; ``None`` (the default)
            means the operation's own
        """
        self._add(Fault("deny_access", times, share, operation, action=action))

    def malformed(
        self, times: int | None = None, share: float | None = None, operation: str | None = None
    ) -> None:
        """Answer 200 with a body that is not JSON, as a proxy in between does."""
        self._add(Fault("malformed", times, share, operation))

    def expired_token(
        self, times: int | None = None, share: float | None = None, operation: str | None = None
    ) -> None:
        """Answer ExpiredTokenException, as for temporary credentials that ran out."""
        self._add(Fault("expired_token", times, share, operation))

    def deny_role(
        self, role_arn: str | None = None, times: int | None = None, share: float | None = None
    ) -> None:
        """
        Let STS answer AccessDenied when a role is to be assumed, as when its trust policy lacks the caller.

        :param role_arn: ARN of the role; ``None`` (the default) means every role
        :param times: only the next so many times
        :param share: only a share of the times, between 0.0 and 1.0
        """
        if role_arn is not None and not re.fullmatch(r"arn:[\w-]+:iam::\d{12}:role/.+", role_arn):
            raise ValueError(
                "role_arn: expected the ARN of a role, such as arn:aws:iam::123456789012:role/shop, "
                f"got {role_arn!r}."
            )
        self._add(Fault("deny_role", times, share, None, role_arn=role_arn))

    def clear(self) -> None:
        """Let everything go well again."""
        with self._lock:
            self._faults.clear()

    def draw(self, operation: str) -> list[Fault]:
        """
        Return what is to go wrong with one call: any slowness, then at most one other fault.

        :param operation: the operation called
        """
        drawn: list[Fault] = []
        with self._lock:
            for fault in list(self._faults):
                if fault.name == "deny_role" or fault.operation not in (None, operation):
                    continue
                if fault.name != "slow" and any(each.name != "slow" for each in drawn):
                    continue
                if self._happens(fault):
                    drawn.append(fault)
        return sorted(drawn, key=lambda fault: fault.name != "slow")

    def draw_denied_role(self, role_arn: str) -> bool:
        """
        Tell whether a role is to be refused this time.

        :param role_arn: ARN of the role
        """
        with self._lock:
            return any(
                fault.name == "deny_role" and fault.role_arn in (None, role_arn) and self._happens(fault)
                for fault in list(self._faults)
            )

    def _happens(self, fault: Fault) -> bool:
        """Decide by chance, and count."""
        if fault.share is not None and self._chance.random() >= fault.share:
            return False
        if fault.times is not None:
            fault.times -= 1
            if fault.times <= 0:
                self._faults.remove(fault)
        return True

    def _add(self, fault: Fault) -> None:
        if fault.times is not None and fault.times < 1:
            raise ValueError(f"times: expected 1 or more, got {fault.times!r}.")
        if fault.share is not None and not 0.0 <= fault.share <= 1.0:
            raise ValueError(f"share: expected 0.0 to 1.0, got {fault.share!r}.")
        if fault.operation is not None and fault.operation not in service_model().operation_names:
            raise ValueError(
                "operation: expected the name of a Personalize operation, such as DescribeBatchSegmentJob, "
                f"got {fault.operation!r}."
            )
        with self._lock:
            self._faults.append(fault)


@dataclass(frozen=True)
class Call:
    """A Personalize call that was received, answered or not."""

    operation: str
    parameters: dict[str, Any]
    time: datetime
    region_name: str
    faults: tuple[FaultName, ...] = field(default=())
    """What was made to go wrong with it."""
    caller_arn: str = ""
    """Who called: an assumed role, as ``arn:aws:sts::123456789012:assumed-role/shop/Airflow``, or
    ``arn:aws:sts::123456789012:user/moto`` for any other credentials."""


class CallLog:
    """The calls received so far, in order; any thread may read it while others call."""

    def __init__(self) -> None:
        self._calls: list[Call] = []

    def append(self, call: Call) -> None:
        """Add a call."""
        self._calls.append(call)

    def clear(self) -> None:
        """Forget all calls."""
        self._calls.clear()

    def count(self, operation: str | None = None) -> int:
        """
        Return how many calls there were.

        :param operation: the only operation to count, such as ``DescribeBatchSegmentJob``
        """
        return sum(operation in (None, call.operation) for call in self)

    def __iter__(self) -> Iterator[Call]:
        return iter(self._calls.copy())

    def __len__(self) -> int:
        return len(self._calls)

    def __getitem__(self, position: int) -> Call:
        return self._calls[position]

    def __repr__(self) -> str:
        return f"<CallLog: {[call.operation for call in self]}>"
