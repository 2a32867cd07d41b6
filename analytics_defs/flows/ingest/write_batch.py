"""Claim and archive: chunk by chunk, all stores at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from analytics_defs.core.events.event import Event
from analytics_defs.core.ingest.batch_accounting import Stored
from analytics_defs.core.ingest.batch_builder import Staged, first_of_each_id
from analytics_defs.core.ledger import Batch
from analytics_defs.core.offsets import Source
from analytics_defs.core.storage import dead_letter_files, event_parquet
from analytics_defs.core.storage.object_keys import dead_letters_key, part_key, repeats_key
from analytics_defs.flows.ingest.timings import Stopwatch
from analytics_defs.flows.stored.event_json import put_event_objects
from analytics_defs.ports import Blob, Ports

CHUNK = 100
"""Events in one claim: what a DynamoDB transaction holds."""


def claim_and_archive(batch: Batch, staged: Staged, ports: Ports, watch: Stopwatch) -> Stored:
    """Everything the batch writes outside the ledger. Returns when every store has confirmed every event; raises when one has not."""
    first, later = first_of_each_id(staged.events)
    chunks = [first[start : start + CHUNK] for start in range(0, len(first), CHUNK)]
    answers = ports.workers.run([partial(_claim_chunk, batch, staged, chunk, ports, watch) for chunk in chunks])
    refused = {source: holder for answer in answers for source, holder in answer.items()}
    repeats = refused | {source: refused.get(holder, holder) for source, holder in later.items()}
    kept = [event for event in first if event.record.source not in refused]
    files = [*_parts(batch, kept), *_dead_letters(batch, staged), *_repeats(batch, staged, repeats)]
    written = ports.workers.run([partial(_archive, make, ports, watch) for _, make in files])
    digests = {key: digest for (key, _), digest in zip(files, written, strict=True)}
    return Stored(
        repeats,
        {hour: part_key(hour, batch.id) for hour in sorted({event.hour for event in kept})},
        next((key for key in digests if key == dead_letters_key(batch.id)), None),
        next((key for key in digests if key == repeats_key(batch.id)), None),
        digests.get(dead_letters_key(batch.id)),
    )


def _claim_chunk(batch: Batch, staged: Staged, chunk: Sequence[Event], ports: Ports, watch: Stopwatch) -> Mapping[Source, Source]:
    """Claim, then write the objects of what was claimed: no object without its claim."""
    with watch("claim"):
        claims = ports.recent.claim(chunk, batch.time)
    with watch("event objects"):
        claimed = [event for event in chunk if event.record.source not in claims.refused]
        put_event_objects(batch, [event for event in claimed if staged.event_objects or event.record.source in claims.pointers], ports)
    return claims.refused


File = tuple[str, Callable[[], Blob]]


def _parts(batch: Batch, kept: Sequence[Event]) -> list[File]:
    hours: dict[str, list[Event]] = {}
    for event in kept:
        hours.setdefault(event.hour, []).append(event)

    def make(hour: str) -> Blob:
        return _blob(part_key(hour, batch.id), event_parquet.part(batch.id, batch.time, hours[hour]), "application/vnd.apache.parquet")

    return [(part_key(hour, batch.id), partial(make, hour)) for hour in sorted(hours)]


def _dead_letters(batch: Batch, staged: Staged) -> list[File]:
    key = dead_letters_key(batch.id)
    found = staged.rejections
    return [(key, lambda: _blob(key, dead_letter_files.dead_letter_file(found), "application/x-ndjson"))] if found else []


def _repeats(batch: Batch, staged: Staged, repeats: Mapping[Source, Source]) -> list[File]:
    key = repeats_key(batch.id)
    found = [(event, repeats[event.record.source]) for event in staged.events if event.record.source in repeats]
    return [(key, lambda: _blob(key, dead_letter_files.repeat_file(found), "application/x-ndjson"))] if found else []


def _archive(make: Callable[[], Blob], ports: Ports, watch: Stopwatch) -> str:
    """Answers the SHA-256 of what was written."""
    with watch("encode"):
        blob = make()
        digest = dead_letter_files.digest(blob.body)
    with watch("files"):
        ports.archive.put([blob])
    return digest


def _blob(key: str, body: bytes, content_type: str) -> Blob:
    return Blob(key, body, content_type, {})
