"""Translation of obstore's errors into AnalyticsError. Only this module parses obstore's messages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from analytics_defs.errors import AccessDenied, AnalyticsError, InconsistentState, ResourceNotReady, Unavailable

_EXPIRED_CODES = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}
_DENIED_CODES = {
    "AccessDenied",
    "AuthorizationHeaderMalformed",
    *_EXPIRED_CODES,
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
}
"""S3 codes of requests that stay forbidden, so that a retry does not help. Some come with status 400."""

_DEBUG = "\n\nDebug source:"
_STATUS = re.compile(r"status code: ([0-9]{3})")
_CODE = re.compile(r"<Code>([A-Za-z0-9_.]+)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]{1,300})</Message>")
_RETRIES = re.compile(r"after ([0-9]+) retries")
_CONNECTION = re.compile(r"\bkind: (Connect|Timeout)\b")
_UNLISTABLE_KEY = re.compile(r'Encountered object with invalid path: (?:Error parsing )?Path "([^"]+)"')
"""Error for a key that S3 allows and obstore does not: an empty segment, `.`, `..`, a control character. It ends the whole listing."""
_CONNECTION_ERROR = re.compile(r'\bmessage: "([^"]{1,100})"')


@dataclass(frozen=True, slots=True)
class BucketLocation:
    """The bucket in error messages."""

    store: str
    """Endpoint, or `Amazon S3`."""
    bucket: str

    def describe(self, *keys: str) -> str:
        """Return store, bucket and the first key."""
        more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
        return f"{self.store}, bucket {self.bucket}" + (f", key {keys[0]}{more}" if keys else "")


@contextmanager
def translate_object_store_error(
    location: BucketLocation, action: str, *keys: str, passed: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Raise obstore's errors in the block as AnalyticsError, except those of the types in `passed`.

    A missing bucket is always translated, so that it is never mistaken for a missing object.
    """
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, FileNotFoundError) as error:
        if isinstance(error, passed) and _first_group(_CODE, str(error)) != "NoSuchBucket":
            raise
        raise _to_analytics_error(f"{location.describe(*keys)}: {action} failed", error) from error


def is_rejected(error: AnalyticsError) -> bool:
    """Return whether the store rejected the request as wrong or forbidden. False for an overloaded or unreachable store."""
    return (_first_group(_STATUS, str(error.__cause__)) or "").startswith("4") or isinstance(error, AccessDenied)


def is_expired_token(error: AnalyticsError) -> bool:
    """Return whether the store refused credentials because their time is over, or may have: the answer to a HEAD has no code."""
    code, status = (_first_group(pattern, str(error.__cause__)) for pattern in (_CODE, _STATUS))
    return code in _EXPIRED_CODES or (code is None and status == "400")


def is_truncated_upload(error: AnalyticsError) -> bool:
    """Return whether the store did not receive the whole body. An overloaded MinIO reports that as 400, which obstore does not retry."""
    return _first_group(_CODE, str(error.__cause__)) == "IncompleteBody"


def _to_analytics_error(prefix: str, error: Exception) -> AnalyticsError:
    from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

    text = str(error)
    status, code = _first_group(_STATUS, text), _first_group(_CODE, text)
    answer = " ".join(filter(None, (status, code, _first_group(_MESSAGE, text)))) or first_sentence(text)
    if code == "NoSuchBucket":
        return ResourceNotReady(f"{prefix}: the bucket does not exist. Create it (`analytics setup`), or correct ARCHIVE_BUCKET_NAME.")
    if code in _DENIED_CODES or status in {"401", "403"} or isinstance(error, (PermissionDeniedError, UnauthenticatedError)):
        return AccessDenied(
            f"{prefix}: {answer}. Correct the credentials, their permissions on this bucket, or the region. Nothing was dropped."
        )
    if key := _first_group(_UNLISTABLE_KEY, text):
        return InconsistentState(
            f"{prefix}: the foreign object {key!r} ends the listing. Its key has a segment that this client does not support "
            "(empty, `.`, `..`, or with a control character). Move it elsewhere. Nothing was changed."
        )
    retries = _first_group(_RETRIES, text)
    after_retries = f" after {retries} retries" if retries else ""
    if status or code:
        return Unavailable(f"{prefix}: the store answered {answer}{after_retries}. It is safe to try again.")
    return Unavailable(
        f"{prefix}: {_no_answer_reason(text)}{after_retries}. Check that the store is up and reachable from this machine. "
        "It is safe to try again."
    )


def _no_answer_reason(text: str) -> str:
    """Return why there was no answer."""
    kind = _first_group(_CONNECTION, text)
    if kind == "Timeout":
        return "no answer in time"
    if kind == "Connect":
        return f"no connection ({_first_group(_CONNECTION_ERROR, text) or 'timed out'})"
    return first_sentence(text)


def first_sentence(error: Exception | str) -> str:
    """Return the message without obstore's debug output, which follows it."""
    return " ".join(str(error).partition(_DEBUG)[0].split())


def _first_group(pattern: re.Pattern[str], text: str) -> str | None:
    match = pattern.search(text)
    return match[1] if match else None
