"""What errors of boto3's mean: whether a call may work the next time, and what to do about it."""

from __future__ import annotations

import re
from http.client import IncompleteRead

import botocore
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    MetadataRetrievalError,
    PaginationError,
    ResponseStreamingError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.parsers import ResponseParserError

from airflow_provider_personalize_segments.errors import (
    THROTTLING_CODES,
    PersonalizeError,
    PersonalizeRequestError,
    PersonalizeUnavailableError,
)
from airflow_provider_personalize_segments.lacks import is_about_file, is_lack, make_lack

_TRANSIENT_CODES = THROTTLING_CODES | {
    # The service's common errors (https://docs.aws.amazon.com/personalize/latest/dg/CommonErrors.html), all
    # codes that botocore retries, two for a clock that is set right later, and two of Personalize's own:
    # LimitExceededException means too many requests or too many unfinished jobs, and a resource in use will
    # not stay so.
    "InternalFailure",
    "InternalFailureException",
    "InternalServerError",
    "InternalServerException",
    "LimitExceededException",
    "PriorRequestNotComplete",
    "RequestExpired",
    "RequestTimeout",
    "RequestTimeTooSkewed",
    "RequestTimeoutException",
    "ResourceInUseException",
    "ServiceUnavailable",
    "ServiceUnavailableException",
    "TransactionInProgressException",
}
_TRANSIENT_ERRORS = (
    BotoConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteRead,
    IncompleteReadError,
    MetadataRetrievalError,
    PaginationError,
    ResponseParserError,
    ResponseStreamingError,
)
_WRONG_CREDENTIALS_CODES = {
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "NoCredentialsError",
    "PartialCredentialsError",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}
_KNOWN_SINCE = {"rankingInfluence": "1.42"}
"""Members of requests that the oldest boto3 we work with does not know, and the release that does."""

_ACCESS_DENIED_CODES = frozenset(
    {"AccessDenied", "AccessDeniedException", "NotAuthorized", "UnauthorizedOperation"}
)


class InvalidCABundleError(BotoCoreError):  # type: ignore[misc]  # botocore has no types
    """The CA bundle that ``verify`` names cannot be loaded; botocore has no error of its own for that."""

    fmt = "verify is {path!r}, which cannot be loaded: {reason}"


def explain(
    error: Exception,
    operation: str,
    subject: str,
    region: str | None,
    aws_conn_id: str | None,
    *,
    is_called: bool,
) -> PersonalizeRequestError | PersonalizeUnavailableError | None:
    """
    Return our error for one of boto3's, with what it was about and what to do; ``None`` for any other.

    :param error: what boto3 raised
    :param operation: the API operation, such as ``DescribeBatchSegmentJob``
    :param subject: what the call was about: an ARN, or words
    :param region: the region that was called, or ``None`` when none could be found
    :param aws_conn_id: the Airflow connection that was used; ``None`` means boto3's own credentials
    :param is_called: whether AWS was called: then every error that is not botocore's own comes from an answer
        that botocore could not read, and which was none
    """
    is_botocore = isinstance(error, (ClientError, BotoCoreError, ResponseParserError, IncompleteRead))
    if lack := explain_lack(error, operation, subject, region, aws_conn_id):
        lack.is_called = is_called
        return lack
    # A disk that does not answer, say; that a file is not there stays as it is.
    is_of_machine = isinstance(error, OSError) and not is_about_file(error)
    if not is_botocore and not is_called and not is_of_machine:
        return None
    code, detail = type(error).__name__, str(error)
    if isinstance(error, ClientError):
        code = str(error.response.get("Error", {}).get("Code") or code)
        detail = str(error.response.get("Error", {}).get("Message") or detail)
        if error.operation_name != operation:
            detail = f"{detail} (calling {error.operation_name})"
    elif not is_botocore and is_called:
        detail = f"the answer cannot be read: {detail}"
    about = (operation, subject, region, aws_conn_id, code, detail)
    if is_transient(error) or not is_botocore:
        unavailable = PersonalizeUnavailableError(*about, _advise_waiting(error, code))
        unavailable.is_called = is_called
        return unavailable
    return PersonalizeRequestError(*about, _advise(code, operation, detail))


def explain_lack(
    error: Exception, operation: str, subject: str, region: str | None, aws_conn_id: str | None
) -> PersonalizeUnavailableError | None:
    """
    Return our error for one that came of a lack of file descriptors or threads; ``None`` for any other.

    :param error: what was raised; an answer of AWS's, or an error of ours, is none
    :param operation: what was to be done, such as an API operation
    :param subject: as all that follow: see :func:`explain`
    """
    if isinstance(error, (ClientError, PersonalizeError, *_TRANSIENT_ERRORS)) or not is_lack(error):
        return None
    return make_lack(error, operation, subject, region, aws_conn_id)


def are_credentials_refused(error: PersonalizeRequestError) -> bool:
    """
    Tell whether AWS refused a call's credentials, so that newer ones may do.

    :param error: the refusal
    """
    return error.code in _WRONG_CREDENTIALS_CODES


def is_transient(error: Exception) -> bool:
    """
    Tell whether a call that ended in this error may succeed when it is made again.

    True for throttling, 5xx, network faults, credentials that could not be fetched, and answers that are not
    AWS's: an error without a code of AWS's comes from a proxy or a load balancer. An error that AWS means is
    permanent: waiting for it would hide it until the timeout.

    :param error: what boto3 raised
    """
    if isinstance(error, ClientError):
        code = str(error.response.get("Error", {}).get("Code") or "")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return code in _TRANSIENT_CODES or status >= 500 or status in (408, 429) or not _is_of_aws(code)
    return isinstance(error, _TRANSIENT_ERRORS)


def _is_of_aws(code: str) -> bool:
    """Tell whether an error code is AWS's; a proxy or a load balancer sends none, or a number."""
    return re.fullmatch(r"[A-Za-z][\w.:-]*", code, re.ASCII) is not None and code != "Unknown"


def _advise_waiting(error: Exception, code: str) -> str:
    """Say what to do about a fault that may pass, for when it does not."""
    if code == "LimitExceededException":
        return (
            "As many jobs run, or calls are made, as AWS allows: raise timeout, or let fewer jobs run at a "
            "time, such as with an Airflow pool of five slots."
        )
    if code in THROTTLING_CODES:
        return "AWS throttles the account's calls: ask less often, or ask AWS for a higher quota."
    if code in ("RequestExpired", "RequestTimeTooSkewed"):
        return "Set the clock of the machine that calls."
    if isinstance(error, (CredentialRetrievalError, MetadataRetrievalError)):
        return "Check where the credentials come from: a role, a profile, or the machine's metadata."
    if isinstance(error, (BotoConnectionError, HTTPClientError)):
        return "Check that this machine reaches the address: endpoint_url, proxies, firewalls, VPC endpoints."
    if code == "ResourceInUseException":
        return "The job, or what it is made of, is being changed just now."
    if isinstance(error, OSError):
        return "Look at the machine that calls: what it reads from disks or network drives."
    if isinstance(error, ClientError) and _is_of_aws(code):
        return "AWS has a fault of its own: if it lasts, look at the AWS Health Dashboard."
    return "That is no answer of Amazon Personalize's: look for a proxy, or a wrong endpoint_url."


def _advise(code: str, operation: str, detail: str) -> str:
    if code in _ACCESS_DENIED_CODES:
        # What is denied may be another action that the call needs, such as iam:PassRole or sts:AssumeRole.
        denied = re.search(r"perform: ([\w-]+:\w+)", detail)
        action = denied[1] if denied else f"personalize:{operation}"
        return f"Allow {action} in that identity's IAM policy."
    if code in _WRONG_CREDENTIALS_CODES:
        return "Correct or renew the credentials of that connection."
    if code == "ResourceNotFoundException":
        return "Check the ARNs that the request names; the credentials must be those of the account in them."
    if unknown := re.search(r'Unknown parameter in .*?: "(\w+)"', detail):
        release = _KNOWN_SINCE.get(unknown[1])
        return (
            f"boto3 {botocore.__version__}, which is installed, does not know {unknown[1]}. "
            f"Install {f'boto3 {release} or later' if release else 'a newer one'}, or leave it out."
        )
    if code == InvalidCABundleError.__name__:
        return (
            "Set verify, here or in the connection's extra, to a file with certificates in PEM format that "
            "every worker and triggerer has."
        )
    if code in ("NoRegionError", "InvalidRegionError"):
        return "Pass region_name, or set region_name in the connection's extra."
    return ""
