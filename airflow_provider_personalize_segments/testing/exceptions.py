# ruff: noqa: N818 - these are the names that AWS gives them.
"""The errors of Amazon Personalize, under AWS's names and as moto sends them."""

from __future__ import annotations

from moto.core.exceptions import JsonRESTError


class PersonalizeError(JsonRESTError):
    """An error answer; its code is the name of the class, so that boto3 raises the exception of that name."""

    code = 400

    def __init__(self, message: str) -> None:
        super().__init__(type(self).__name__, message)


class InvalidInputException(PersonalizeError):
    """A parameter is missing or not acceptable."""


class InvalidNextTokenException(PersonalizeError):
    """The token of a page was not given out for this listing."""

    def __init__(self) -> None:
        super().__init__("The token is not valid.")


class LimitExceededException(PersonalizeError):
    """A quota is used up."""


class ResourceAlreadyExistsException(PersonalizeError):
    """The name is taken."""

    def __init__(self, arn: str) -> None:
        super().__init__(f"Another resource with Arn {arn} already exists.")


class ResourceInUseException(PersonalizeError):
    """The resource is not ready for this."""


class ResourceNotFoundException(PersonalizeError):
    """There is no such resource in this account and region."""

    def __init__(self, arn: str) -> None:
        super().__init__(f"Resource Arn {arn} does not exist.")


class SerializationException(PersonalizeError):
    """The request is not the JSON that the operation takes."""


class TooManyTagsException(PersonalizeError):
    """A resource would have more tags than it can."""


class UnknownOperationException(PersonalizeError):
    """The operation is not part of the local Personalize."""


class ConnectionDropped(ConnectionAbortedError):
    """
    No answer is coming: the connection is to be closed.

    The server lets it reach werkzeug, which closes the socket; in process it becomes the exception that
    botocore raises for a closed socket.
    """
