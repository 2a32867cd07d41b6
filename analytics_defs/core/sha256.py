"""SHA-256 as the ledger, keys and fingerprints hold it."""

from __future__ import annotations

import hashlib


def sha256_hex(data: bytes) -> str:
    """Return 64 hex digits in lower case."""
    return hashlib.sha256(data).hexdigest()
