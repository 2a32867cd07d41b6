"""Content types of the objects in the bucket."""

from __future__ import annotations

from typing import Final

ARROW_STREAM_CONTENT_TYPE: Final = "application/vnd.apache.arrow.stream"
JSON_CONTENT_TYPE: Final = "application/json"
NDJSON_CONTENT_TYPE: Final = "application/x-ndjson"
PARQUET_CONTENT_TYPE: Final = "application/vnd.apache.parquet"
