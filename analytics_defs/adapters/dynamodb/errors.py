"""Translation of what DynamoDB and its client raise into the errors of this package, for every operation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analytics_defs.errors import AccessDenied, AnalyticsError, ResourceNotReady, Unavailable

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

_DENIED = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "IncompleteSignatureException",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "NotAuthorized",
        "OptInRequired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
_TABLE_MISSING = frozenset({"ResourceNotFoundException", "TableNotFoundException"})
_INVALID = frozenset({"ValidationException", "SerializationException", "ItemCollectionSizeLimitExceededException"})
_BUSY = frozenset(
    {
        "LimitExceededException",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "ResourceInUseException",
        "ThrottlingException",
        "TransactionCanceledException",
        "TransactionConflictException",
        "TransactionInProgressException",
    }
)
"""Temporary refusals, raised after the client's retries are used up."""
_MAX_MESSAGE_CHARACTERS = 300
"""Characters of DynamoDB's own message that are passed on. Only its first line: the next ones quote the signed request."""


class RequestRejected(AnalyticsError):
    """DynamoDB rejects the request itself, and would reject it again. Either it cannot hold one of the items, or this package has a bug."""

    def __init__(self, message: str, positions: frozenset[int] = frozenset()) -> None:
        super().__init__(message)
        self.positions = positions
        """Positions of the rejected actions of a transaction, if DynamoDB names them."""


@dataclass(frozen=True, slots=True)
class RequestContext:
    """Operation, tables and endpoint of a request, for every message."""

    operation: str
    tables: Sequence[str]
    endpoint: str

    def __str__(self) -> str:
        return f"{self.operation} on {', '.join(self.tables) or 'no table'} at {self.endpoint}"


def client_error_types() -> tuple[type[Exception], ...]:
    """Return the exception types of boto3's client for a failed or unanswered request.

    Called late, because it loads botocore.
    """
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    return BotoCoreError, ClientError, ResponseParserError


def translate_dynamodb_error(error: Exception, request: RequestContext) -> AnalyticsError:
    """Return the error to raise `from` this one, which boto3's client raised after its own retries."""
    from botocore import exceptions as aws

    if isinstance(error, aws.ClientError):
        return _translate_response(error, request)
    if isinstance(
        error,
        aws.NoCredentialsError | aws.PartialCredentialsError | aws.CredentialRetrievalError | aws.TokenRetrievalError | aws.SSOError,
    ):
        return AccessDenied(
            f"{request}: no usable AWS credentials ({type(error).__name__}). Set them, or give the machine a role that has them."
        )
    return Unavailable(f"{request}: no answer, or none that is DynamoDB's ({type(error).__name__}: {_first_line(str(error))})")


def _translate_response(error: ClientError, request: RequestContext) -> AnalyticsError:
    code = error_code(error)
    message = _first_line(error.response.get("Error", {}).get("Message", "")) or "no message"
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in _TABLE_MISSING:
        return ResourceNotReady(
            f"{request}: a table does not exist, or is not ready. `analytics setup` creates missing tables and waits for them."
        )
    if code in _INVALID:
        return RequestRejected(f"{request}: DynamoDB rejects the request: {code}: {message}")
    if code in _DENIED or status in (401, 403):
        return AccessDenied(
            f"{request}: refused with {code}: {message}. The credentials need permission for this operation on these tables."
        )
    if code in _BUSY or status >= 500:
        return Unavailable(f"{request}: DynamoDB is busy or failing, {code}: {message}")
    if status == 400:
        return AnalyticsError(f"{request}: DynamoDB rejects the request: {code}: {message}")
    return Unavailable(f"{request}: answered {status} {code}: {message}. Check that this endpoint is DynamoDB.")


def error_code(error: Any) -> str:
    """Return DynamoDB's error code. Empty for an exception without a response."""
    response = getattr(error, "response", None) or {}  # None on botocore's connection errors
    return str(response.get("Error", {}).get("Code", ""))


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:_MAX_MESSAGE_CHARACTERS]
