"""Retired words stay retired: in code, documents, messages, settings, metrics and keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SUFFIXES = {".py", ".md", ".yaml", ".yml", ".toml", ".json", ".html", ".js", ".css", ".conf", ".sh", ""}
FOLDERS = ("analytics_defs", "bench", "deploy", "docs", "tests", ".ci", ".github")
SKIPPED = {"tests/test_vocabulary.py", "constraints.txt", "LICENSE"}

RETIRED = {
    # words for which the field has its own
    r"heads": "checkpoint: the word of the Kinesis Client Library and Flink; in Kafka the head is the end of a log",
    r"pending head|idle head|head_(key|of|moves)": "checkpoint",
    r"repeats?_\w+|_repeats?|repeats (of|in|file)|repeated event": "duplicate: the word of Kafka, SQS and Flink",
    r"seals?|sealed(?!-secrets)": "platform id: Kafka calls it cluster.id",
    r"late risers?|sleeps over|slept": "zombie: Kafka's word for an executor that continues after it was superseded",
    r"signs? of life|vital[ _]signs?": "heartbeat, or the checks lag, freshness and dead_letter_ratio",
    r"strangers?|foreigners?": "foreign object",
    r"replay(s|ed|ing)?": "repair: replay means reprocess everywhere else",
    r"forget(s|ting)?|forgotten": "expire (archive), purge (Dagster's runs)",
    r"mend(s|ed|ing)?": "repair, rebuild, correct",
    r"(is|are|was|were|be) frozen|frozen (hour|in)|freezes the hour": "expired: the word of Kafka, Iceberg and S3",
    r"_SUCCESS marker|marker (says|names|of the hour)": "manifest: Iceberg's word",
    r"held[_ ]back": "transaction lag: Kafka's LastStableOffsetLag",
    r"generation_\w+|life of a topic|lives of": "incarnation",
    r"letters_taken|take_letters|kept_letters": "dead_letters",
    r"take_batch|taken batch|batch was taken|batch is taken": "begin: the word of Kafka's transactions",
    # private words of this code base
    r"untold|told": "progress: a callback reports, it is not told",
    r"[Dd]oors?|[Dd]oorways?|Belonging|[Cc]onducts?": "interceptor, StoreIdentityCheck, options",
    r"verdicts?": "classified record, health status, check result",
    r"judged?|judges": "classify",
    r"glances?": "quick check",
    r"hears?|heard": "read, receive",
    r"who|whom|whoever|somebody|everybody|anybody": "name the actor: run, worker, sensor, executor, operator, caller",
    r"of one's own": "your own, its own",
    r"in vain|for ever|twice is once": "without effect, permanently, idempotent",
    # names that were public once
    r"TakenOver|Contradiction|TooSmall|GroupInUse|CannotStart": "see analytics_defs/errors.py",
    r"EVENT_OBJECTS\w*|\w+_KEPT_FOR|BATCH_MAX_EVENTS|FOLLOW_FOR|FOLLOW_EVERY|MAX_SILENCE|MAX_DEAD_LETTER_SHARE": "see docs/settings.md",
    r"STALL_AFTER|PUTS_IN_FLIGHT|STORE_THREADS|TAR_UNPACKING|HOURLY_MEMORY_MB|PLAN_MAX_OFFSETS": "see docs/settings.md",
    r"ARCHIVE_START|ON_DATA_LOSS=record": "PARTITIONS_START, ON_DATA_LOSS=continue",
    r"analytics_(partition_)?(held_back|standing|data_loss_seconds|low_offset|stopped|figures_age|repeats)\w*": "see docs/health.md",
    r"heldBack|heldBy|checkedMsAgo": "transactionLag, originalSource, checkedAgoMs",
    r"equation_balances|stores_agree|dead_letter_share|live_aggregates|compare_stores_hourly|move_events": "see docs/dagster.md",
    r"rebuild-aggregates|accept-topic": "reconcile-counters, accept-recreated-topic",
    # second words for one thing
    r"tally|tallies": "outcome counts: the type is OutcomeCounts",
    r"[Hh]oles?": "uncovered range, or gap once there is evidence",
    r"blobs?": "object: the word of S3",
    r"stuck batch(es)?": "abandoned batch",
    r"ResourceMissing|KeeperStatus|RetentionSource|StoreKind|ObservabilityServer": "see analytics_defs/errors.py, docs/architecture.md",
}
"""Each retired word with the word to use instead, and why."""

PATTERNS = {word: re.compile(rf"(?<![A-Za-z0-9])(?:{word})(?![A-Za-z0-9])") for word in RETIRED}


def files() -> list[str]:
    paths = [*ROOT.iterdir(), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))]
    names = [path.relative_to(ROOT).as_posix() for path in paths if path.is_file() and "__pycache__" not in path.parts]
    return sorted(name for name in names if name not in SKIPPED and Path(name).suffix in SUFFIXES)


def lines_with(pattern: re.Pattern[str], name: str, text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), 1):
        if pattern.search(line):
            yield f"{name}:{number}: {line.strip()[:120]}"


@pytest.mark.parametrize("word", RETIRED)
def test_a_retired_word_is_used_nowhere(word: str) -> None:
    found = [line for name in files() for line in lines_with(PATTERNS[word], name, (ROOT / name).read_text(encoding="utf-8"))]
    assert found == [], f"use instead: {RETIRED[word]}"


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("heads", "def read_heads() -> None:"),
        (r"untold|told", "# progress is told by a callback"),
        (r"who|whom|whoever|somebody|everybody|anybody", '"""Whoever closes it first."""'.lower()),
    ],
)
def test_a_planted_word_is_found(word: str, line: str) -> None:
    assert list(lines_with(PATTERNS[word], "planted", line))
