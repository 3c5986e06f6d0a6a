"""Roles: STS gives out their credentials, unless the caller wants one refused, and calls show who called."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from xml.sax.saxutils import escape

from moto.sts.models import sts_backends
from moto.sts.responses import TokenResponse
from moto.utilities.utils import get_partition

from airflow_provider_personalize_segments.testing.faults import Faults

ACTIONS = {
    "assume_role": "sts:AssumeRole",
    "assume_role_with_saml": "sts:AssumeRoleWithSAML",
    "assume_role_with_web_identity": "sts:AssumeRoleWithWebIdentity",
}
# As an answer, because moto's exceptions for STS differ between its versions.
_REFUSAL = (
    '<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type>'
    "<Code>AccessDenied</Code><Message>{message}</Message></Error>"
    "<RequestId>00000000-0000-0000-0000-000000000000</RequestId></ErrorResponse>"
)


def find_caller(access_key: str, account_id: str, region_name: str) -> str:
    """
    Return the ARN of an identity, as GetCallerIdentity gives it.

    :param access_key: ID of the access key that signed the call
    :param account_id: the account that the key belongs to
    :param region_name: the region that was called
    """
    backend = sts_backends[account_id][get_partition(region_name)]
    _, arn, _ = backend.get_caller_identity(access_key, region_name)
    return arn


@contextlib.contextmanager
def refused_on_request(faults: Faults) -> Iterator[None]:
    """
    Let moto's STS refuse the roles that are to be denied; it gives out all others.

    :param faults: knows which are
    """
    answers = {name: vars(TokenResponse)[name] for name in ACTIONS}
    for name, answer in answers.items():
        setattr(TokenResponse, name, _guarded(answer, ACTIONS[name], faults))
    try:
        yield
    finally:
        for name, answer in answers.items():
            setattr(TokenResponse, name, answer)


def _guarded(answer: Callable[[TokenResponse], Any], action: str, faults: Faults) -> Any:
    def answer_or_refuse(self: TokenResponse) -> Any:
        role_arn = self._get_param("RoleArn")
        if not faults.draw_denied_role(role_arn):
            return answer(self)
        caller = find_caller(self.get_access_key(), self.current_account, self.region)
        message = f"User: {caller} is not authorized to perform: {action} on resource: {role_arn}"
        return _REFUSAL.format(message=escape(message)), {"status": 403, "Content-Type": "text/xml"}

    return answer_or_refuse
