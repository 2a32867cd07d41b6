"""Claim and archive: chunk by chunk, all stores at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from analytics_defs.core.events.event import Event
from analytics_defs.core.ingest.batch_accounting import WriteResult
from analytics_defs.core.ingest.batch_builder import StagedBatch, deduplicate
from analytics_defs.core.ledger import Batch
from analytics_defs.core.offsets import Source
from analytics_defs.core.storage import dead_letter_files, event_parquet
from analytics_defs.core.storage.object_keys import dead_letters_key, duplicates_key, part_key
from analytics_defs.flows.ingest.timings import Stopwatch
from analytics_defs.flows.stored.event_json import put_event_json
from analytics_defs.ports import Ports, StoredObject

CLAIM_CHUNK_EVENTS = 100
"""Events in one claim: what a DynamoDB transaction holds."""


def claim_and_write(batch: Batch, staged: StagedBatch, ports: Ports, watch: Stopwatch) -> WriteResult:
    """Everything the batch writes outside the ledger. Returns when every store has confirmed every event; raises when one has not."""
    first, later = deduplicate(staged.events)
    chunks = [first[start : start + CLAIM_CHUNK_EVENTS] for start in range(0, len(first), CLAIM_CHUNK_EVENTS)]
    answers = ports.task_pool.run_all([partial(_claim_chunk, batch, staged, chunk, ports, watch) for chunk in chunks])
    refused = {source: holder for answer in answers for source, holder in answer.items()}
    repeats = refused | {source: refused.get(holder, holder) for source, holder in later.items()}
    kept = [event for event in first if event.record.source not in refused]
    files = [*_parts(batch, kept), *_dead_letters(batch, staged), *_repeats(batch, staged, repeats)]
    written = ports.task_pool.run_all([partial(_archive, make, ports, watch) for _, make in files])
    digests = {key: digest for (key, _), digest in zip(files, written, strict=True)}
    return WriteResult(
        repeats,
        {hour: part_key(hour, batch.id) for hour in sorted({event.hour for event in kept})},
        next((key for key in digests if key == dead_letters_key(batch.id)), None),
        next((key for key in digests if key == duplicates_key(batch.id)), None),
        digests.get(dead_letters_key(batch.id)),
        digests.get(duplicates_key(batch.id)),
    )


def _claim_chunk(batch: Batch, staged: StagedBatch, chunk: Sequence[Event], ports: Ports, watch: Stopwatch) -> Mapping[Source, Source]:
    """Claim, then write the objects of what was claimed: no object without its claim."""
    with watch("claim"):
        claims = ports.recent_events.claim(chunk, batch.time)
    with watch("event json"):
        claimed = [event for event in chunk if event.record.source not in claims.duplicates]
        put_event_json(batch, [event for event in claimed if staged.write_event_json or event.record.source in claims.pointers], ports)
    return claims.duplicates


EncodedFile = tuple[str, Callable[[], StoredObject]]


def _parts(batch: Batch, kept: Sequence[Event]) -> list[EncodedFile]:
    hours: dict[str, list[Event]] = {}
    for event in kept:
        hours.setdefault(event.hour, []).append(event)

    def make(hour: str) -> StoredObject:
        return _blob(
            part_key(hour, batch.id), event_parquet.encode_part(batch.id, batch.time, hours[hour]), "application/vnd.apache.parquet"
        )

    return [(part_key(hour, batch.id), partial(make, hour)) for hour in sorted(hours)]


def _dead_letters(batch: Batch, staged: StagedBatch) -> list[EncodedFile]:
    key = dead_letters_key(batch.id)
    found = staged.rejections
    return [(key, lambda: _blob(key, dead_letter_files.encode_dead_letters(found), "application/x-ndjson"))] if found else []


def _repeats(batch: Batch, staged: StagedBatch, repeats: Mapping[Source, Source]) -> list[EncodedFile]:
    key = duplicates_key(batch.id)
    found = [(event, repeats[event.record.source]) for event in staged.events if event.record.source in repeats]
    return [(key, lambda: _blob(key, dead_letter_files.encode_duplicates(found), "application/x-ndjson"))] if found else []


def _archive(make: Callable[[], StoredObject], ports: Ports, watch: Stopwatch) -> str:
    """Answers the SHA-256 of what was written."""
    with watch("encode"):
        blob = make()
        digest = dead_letter_files.file_sha256(blob.body)
    with watch("files"):
        ports.object_store.put([blob])
    return digest


def _blob(key: str, body: bytes, content_type: str) -> StoredObject:
    return StoredObject(key, body, content_type, {})
