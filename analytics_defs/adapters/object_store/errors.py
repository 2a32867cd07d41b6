"""What an S3 client raises, as our errors. The only place that knows the client's words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from analytics_defs.errors import AccessDenied, AnalyticsError, InconsistentState, ResourceMissing, Unavailable

_DENIED = {
    "AccessDenied",
    "AuthorizationHeaderMalformed",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
}
"""S3's codes for a request that waiting will not make allowed. Some of them come with status 400."""

_DEBUG = "\n\nDebug source:"
_STATUS = re.compile(r"status code: ([0-9]{3})")
_CODE = re.compile(r"<Code>([A-Za-z0-9_.]+)</Code>")
_SAID = re.compile(r"<Message>([^<]{1,300})</Message>")
_RETRIES = re.compile(r"after ([0-9]+) retries")
_CONNECTION = re.compile(r"\bkind: (Connect|Timeout)\b")
_UNREADABLE = re.compile(r'Encountered object with invalid path: (?:Error parsing )?Path "([^"]+)"')
"""One key that obstore cannot take ends the whole listing: an empty segment, `.` or `..` as one, a control character. S3 takes them all."""
_REFUSED = re.compile(r'\bmessage: "([^"]{1,100})"')


@dataclass(frozen=True, slots=True)
class BucketLocation:
    """A bucket, for messages."""

    store: str
    """The endpoint, or `Amazon S3`."""
    bucket: str

    def of(self, *keys: str) -> str:
        more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
        return f"{self.store}, bucket {self.bucket}" + (f", key {keys[0]}{more}" if keys else "")


@contextmanager
def translate_object_store_error(where: BucketLocation, doing: str, *keys: str, but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Whatever obstore raises inside becomes one of our errors, except `but`, which passes; a missing bucket never does."""
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, FileNotFoundError) as error:
        if isinstance(error, but) and _found(_CODE, str(error)) != "NoSuchBucket":
            raise
        raise _fault(f"{where.of(*keys)}: {doing} failed", error) from error


def is_access_denied(error: AnalyticsError) -> bool:
    """Whether the store answered that this request is wrong or not allowed, rather than that it cannot now, or nothing at all."""
    return (_found(_STATUS, str(error.__cause__)) or "").startswith("4") or isinstance(error, AccessDenied)


def is_truncated_upload(error: AnalyticsError) -> bool:
    """Whether the store says that it did not get the whole body. MinIO does where it is too busy, as a 400: the client gives up."""
    return _found(_CODE, str(error.__cause__)) == "IncompleteBody"


def _fault(what: str, error: Exception) -> AnalyticsError:
    from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

    text = str(error)
    status, code = _found(_STATUS, text), _found(_CODE, text)
    answer = " ".join(filter(None, (status, code, _found(_SAID, text)))) or _first_sentence(text)
    if code == "NoSuchBucket":
        return ResourceMissing(f"{what}: the bucket does not exist. Create it (`analytics setup`), or correct ARCHIVE_BUCKET_NAME.")
    if code in _DENIED or status in {"401", "403"} or isinstance(error, (PermissionDeniedError, UnauthenticatedError)):
        return AccessDenied(
            f"{what}: {answer}. Correct the credentials, their permissions on this bucket, or the region; nothing was dropped."
        )
    if alien := _found(_UNREADABLE, text):
        return InconsistentState(
            f"{what}: nobody here wrote {alien!r}, whose name this client cannot take (an empty segment, `.`, `..`, a control character), "
            "and it ends the listing. Move it elsewhere; nothing was changed."
        )
    tries = _found(_RETRIES, text)
    patience = f" after {tries} retries" if tries else ""
    if status or code:
        return Unavailable(f"{what}: the store answered {answer}{patience}. It is safe to try again.")
    return Unavailable(f"{what}: {_silence(text)}{patience}. Is the store up and reachable from here? It is safe to try again.")


def _silence(text: str) -> str:
    """Why there was no answer at all."""
    kind = _found(_CONNECTION, text)
    if kind == "Timeout":
        return "no answer in time"
    if kind == "Connect":
        return f"no connection ({_found(_REFUSED, text) or 'timed out'})"
    return _first_sentence(text)


def _first_sentence(text: str) -> str:
    """Without the client's own values, which follow."""
    return " ".join(text.partition(_DEBUG)[0].split())


def _found(pattern: re.Pattern[str], text: str) -> str | None:
    match = pattern.search(text)
    return match[1] if match else None
