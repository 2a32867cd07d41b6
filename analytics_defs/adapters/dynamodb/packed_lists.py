"""Long lists of offsets as few bytes: JSON of differences, compressed. Four thousand gaps of a transactional topic take about 10 KB."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from analytics_defs.core.ledger import Gap, GapReason
from analytics_defs.core.offsets import Range, TopicPartition


def compress(values: Sequence[Any]) -> bytes | None:
    """JSON values; None where there are none."""
    return zlib.compress(json.dumps(values, separators=(",", ":")).encode()) if values else None


def decompress(data: bytes | None) -> Any:
    """Raises zlib.error or ValueError where the bytes are damaged."""
    return json.loads(zlib.decompress(data)) if data else []


def compress_ranges(ranges: Sequence[Range]) -> bytes | None:
    """In any order; few bytes where they are sorted."""
    return compress(_steps(ranges))


def decompress_ranges(data: bytes | None) -> tuple[Range, ...]:
    return tuple(_walked(decompress(data)))


def compress_gaps(gaps: Sequence[Gap]) -> bytes | None:
    return compress([_steps([gap.range for gap in gaps]), [gap.reason for gap in gaps]] if gaps else [])


def decompress_gaps(data: bytes | None) -> tuple[Gap, ...]:
    steps, reasons = decompress(data) or ([], [])
    return tuple(Gap(each, GapReason(reason)) for each, reason in zip(_walked(steps), reasons, strict=True))


def _steps(ranges: Sequence[Range]) -> list[list[Any]]:
    """For each stretch of one topic-partition its name, then for each range the distance from the end of the one before, and its length."""
    stretches = []
    for topic_partition, stretch in groupby(ranges, lambda each: each.topic_partition):
        position = 0
        steps = []
        for each in stretch:
            steps += [each.start - position, len(each)]
            position = each.end
        stretches.append([str(topic_partition), *steps])
    return stretches


def _walked(stretches: Iterable[Sequence[Any]]) -> Iterator[Range]:
    for name, *steps in stretches:
        topic_partition, position = TopicPartition.parse(name), 0
        for distance, length in zip(steps[::2], steps[1::2], strict=True):
            start = position + distance
            position = start + length
            yield Range(topic_partition, start, position)
