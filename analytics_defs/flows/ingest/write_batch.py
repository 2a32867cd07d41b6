"""Claim events and write them to every store, in chunks that run in parallel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from analytics_defs.core.events.event import Event
from analytics_defs.core.ingest.batch_accounting import WriteResult
from analytics_defs.core.ingest.batch_builder import StagedBatch, deduplicate
from analytics_defs.core.ledger import Batch
from analytics_defs.core.offsets import Source
from analytics_defs.core.sha256 import sha256_hex
from analytics_defs.core.storage import dead_letter_files, event_parquet
from analytics_defs.core.storage.content_types import NDJSON_CONTENT_TYPE, PARQUET_CONTENT_TYPE
from analytics_defs.core.storage.object_keys import dead_letters_key, duplicates_key, part_key
from analytics_defs.flows.ingest.timings import Stopwatch
from analytics_defs.flows.stored.event_json import put_event_json
from analytics_defs.ports import Ports, StoredObject

CLAIM_CHUNK_EVENTS = 100
"""Events in one claim: the maximum number of actions in a DynamoDB transaction."""


def claim_and_write(batch: Batch, staged: StagedBatch, ports: Ports, stopwatch: Stopwatch) -> WriteResult:
    """Write everything that the batch stores outside the ledger. Return only after every store has confirmed every event."""
    first, later = deduplicate(staged.events)
    chunks = [first[start : start + CLAIM_CHUNK_EVENTS] for start in range(0, len(first), CLAIM_CHUNK_EVENTS)]
    refusals = ports.task_pool.run_all([partial(_claim_chunk, batch, staged, chunk, ports, stopwatch) for chunk in chunks])
    refused = {source: owner for by_source in refusals for source, owner in by_source.items()}
    duplicates = refused | {source: refused.get(owner, owner) for source, owner in later.items()}
    claimed = [event for event in first if event.record.source not in refused]
    files = [*_parts(batch, claimed), *_dead_letters(batch, staged), *_duplicates(batch, staged, duplicates)]
    written = ports.task_pool.run_all([partial(_write_file, encode, ports, stopwatch) for _, encode in files])
    digests = {key: digest for (key, _), digest in zip(files, written, strict=True)}
    return WriteResult(
        duplicates,
        {hour: part_key(hour, batch.id) for hour in sorted({event.hour for event in claimed})},
        next((key for key in digests if key == dead_letters_key(batch.id)), None),
        next((key for key in digests if key == duplicates_key(batch.id)), None),
        digests.get(dead_letters_key(batch.id)),
        digests.get(duplicates_key(batch.id)),
    )


def _claim_chunk(batch: Batch, staged: StagedBatch, chunk: Sequence[Event], ports: Ports, stopwatch: Stopwatch) -> Mapping[Source, Source]:
    """Claim the chunk, then write the JSON objects of the claimed events: no object exists without its claim.

    Return the owning source by refused source.
    """
    with stopwatch("claim"):
        claims = ports.recent_events.claim(chunk, batch.time)
    with stopwatch("event json"):
        claimed = [event for event in chunk if event.record.source not in claims.duplicates]
        put_event_json(batch, [event for event in claimed if staged.write_event_json or event.record.source in claims.pointers], ports)
    return claims.duplicates


FileToWrite = tuple[str, Callable[[], StoredObject]]
"""Key of a file, and the call that encodes it. Files are encoded one by one, because their bytes are large."""


def _parts(batch: Batch, claimed: Sequence[Event]) -> list[FileToWrite]:
    """Return one Parquet part for each hour of the claimed events."""
    events_by_hour: dict[str, list[Event]] = {}
    for event in claimed:
        events_by_hour.setdefault(event.hour, []).append(event)

    def encode(hour: str) -> StoredObject:
        body = event_parquet.encode_part(batch.id, batch.time, events_by_hour[hour])
        return StoredObject(part_key(hour, batch.id), body, PARQUET_CONTENT_TYPE, {})

    return [(part_key(hour, batch.id), partial(encode, hour)) for hour in sorted(events_by_hour)]


def _dead_letters(batch: Batch, staged: StagedBatch) -> list[FileToWrite]:
    rejections = staged.rejections
    return [_ndjson(dead_letters_key(batch.id), lambda: dead_letter_files.encode_dead_letters(rejections))] if rejections else []


def _duplicates(batch: Batch, staged: StagedBatch, owners: Mapping[Source, Source]) -> list[FileToWrite]:
    duplicates = [(event, owners[event.record.source]) for event in staged.events if event.record.source in owners]
    return [_ndjson(duplicates_key(batch.id), lambda: dead_letter_files.encode_duplicates(duplicates))] if duplicates else []


def _ndjson(key: str, encode: Callable[[], bytes]) -> FileToWrite:
    return key, lambda: StoredObject(key, encode(), NDJSON_CONTENT_TYPE, {})


def _write_file(encode: Callable[[], StoredObject], ports: Ports, stopwatch: Stopwatch) -> str:
    """Encode and put one file. Return its SHA-256."""
    with stopwatch("encode"):
        object_ = encode()
        digest = sha256_hex(object_.body)
    with stopwatch("files"):
        ports.object_store.put([object_])
    return digest
