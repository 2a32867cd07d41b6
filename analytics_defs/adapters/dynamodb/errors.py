"""What DynamoDB and its client raise, as errors of this package: one place, for every operation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analytics_defs.errors import AccessDenied, AnalyticsError, ResourceMissing, SettingsError, Unavailable

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
_NO_TABLE = frozenset({"ResourceNotFoundException", "TableNotFoundException"})
_WRONG = frozenset({"ValidationException", "SerializationException", "ItemCollectionSizeLimitExceededException"})
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
"""Refusals of the moment, where their number of repeats is used up."""
_MESSAGE = 300
"""Characters of DynamoDB's own message that are passed on; its first line only, the next ones quote the signed request."""


class RequestRejected(AnalyticsError):
    """DynamoDB says that the request itself is wrong, and would be wrong again: one of its items cannot be held, or a bug of ours."""

    def __init__(self, message: str, positions: frozenset[int] = frozenset()) -> None:
        super().__init__(message)
        self.positions = positions
        """Which actions of a transaction are at fault, where DynamoDB tells."""


@dataclass(frozen=True, slots=True)
class RequestContext:
    """What was asked, and of whom: in every message."""

    operation: str
    tables: Sequence[str]
    endpoint: str

    def __str__(self) -> str:
        return f"{self.operation} on {', '.join(self.tables) or 'no table'} at {self.endpoint}"


def translate_client_errors() -> tuple[type[Exception], ...]:
    """Whatever boto3's client raises for a request that was not done, or not answered. Loads botocore, so it is asked late."""
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    return BotoCoreError, ClientError, ResponseParserError


def translate_dynamodb_error(error: Exception, request: RequestContext) -> AnalyticsError:
    """The error to raise `from` this one: whatever boto3's client raised, after its own repeats."""
    from botocore import exceptions as aws

    if isinstance(error, aws.ClientError):
        return _answered(error, request)
    if isinstance(
        error,
        aws.NoCredentialsError | aws.PartialCredentialsError | aws.CredentialRetrievalError | aws.TokenRetrievalError | aws.SSOError,
    ):
        return AccessDenied(
            f"{request}: no usable AWS credentials ({type(error).__name__}). Set them, or give the machine a role that has them."
        )
    if isinstance(error, aws.NoRegionError):
        return SettingsError("AWS region: not set, expected for example AWS_DEFAULT_REGION=eu-central-1 where DYNAMO_ENDPOINT is not set")
    return Unavailable(f"{request}: no answer, or none that is DynamoDB's ({type(error).__name__}: {_first_line(str(error))})")


def _answered(error: ClientError, request: RequestContext) -> AnalyticsError:
    code = error_code(error)
    said = _first_line(error.response.get("Error", {}).get("Message", "")) or "no message"
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in _NO_TABLE:
        return ResourceMissing(
            f"{request}: a table is not there, or not ready. `analytics setup` creates what is missing and waits for it."
        )
    if code in _WRONG:
        return RequestRejected(f"{request}: DynamoDB refuses the request: {code}: {said}")
    if code in _DENIED or status in (401, 403):
        return AccessDenied(f"{request}: refused with {code}: {said}. The credentials need permission for this operation on these tables.")
    if code in _BUSY or status >= 500:
        return Unavailable(f"{request}: DynamoDB is busy or failing, {code}: {said}")
    if status == 400:
        return AnalyticsError(f"{request}: DynamoDB refuses the request: {code}: {said}")
    return Unavailable(f"{request}: answered {status} {code}: {said}. Is it DynamoDB that listens there?")


def error_code(error: Any) -> str:
    """DynamoDB's name of the fault; empty for an exception that carries no answer."""
    answer = getattr(error, "response", None) or {}  # None on botocore's errors of connections
    return str(answer.get("Error", {}).get("Code", ""))


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:_MESSAGE]
