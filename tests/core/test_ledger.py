"""Outcome counts, checkpoints, snapshots and batch records of the ledger."""

from __future__ import annotations

from analytics_defs.core.ingest.batch_builder import StagedBatch
from analytics_defs.core.ledger import OUTCOMES, REDRIVE_CHECKPOINT, Checkpoint, LedgerSnapshot, OutcomeCounts, TopicState
from analytics_defs.core.offsets import Range, TopicPartition
from tests.core.ingest.batches import AT, BESIDE, batch, batch_record, event

TOPIC = TopicState("ProductDeleted", 1, "id", {0: 5})


def test_outcome_counts_add_up_by_outcome() -> None:
    counts = OutcomeCounts(1, 2, 3, 4, 5, 6)
    assert counts.total == 21
    assert counts + OutcomeCounts(stored=1) == OutcomeCounts(2, 2, 3, 4, 5, 6)
    assert counts + -counts == OutcomeCounts()
    assert tuple(counts.as_dict()) == OUTCOMES


def test_a_checkpoint_reports_offsets_without_an_outcome() -> None:
    assert Checkpoint(AT, 5, 10, totals=OutcomeCounts(stored=3, lost=2)).unaccounted == 0
    assert Checkpoint(AT, 5, 10, totals=OutcomeCounts(stored=3)).unaccounted == 2
    assert Checkpoint(AT, 5, 10, totals=OutcomeCounts(stored=6)).unaccounted == -1


def test_a_new_partition_starts_where_its_topic_was_opened_and_an_added_one_at_0() -> None:
    snapshot = LedgerSnapshot({TOPIC.topic: TOPIC})
    assert snapshot.checkpoint(TOPIC.partition(0)) == Checkpoint(TOPIC.partition(0), 5, 5)
    assert snapshot.checkpoint(TOPIC.partition(1)) == Checkpoint(TOPIC.partition(1), 0, 0)


def test_start_offsets_apply_to_their_own_incarnation_only() -> None:
    snapshot = LedgerSnapshot({TOPIC.topic: TOPIC})
    earlier = TopicPartition(TOPIC.topic, 0, 0)
    assert snapshot.checkpoint(earlier) == Checkpoint(earlier, 0, 0)


def test_a_stored_checkpoint_is_returned_unchanged() -> None:
    checkpoint = Checkpoint(TOPIC.partition(0), 5, 9, "batch")
    assert (
        LedgerSnapshot({TOPIC.topic: TOPIC}, {checkpoint.topic_partition: checkpoint}).checkpoint(checkpoint.topic_partition) is checkpoint
    )


def test_the_redrive_checkpoint_starts_at_0_and_has_no_valid_topic_name() -> None:
    assert LedgerSnapshot().checkpoint(REDRIVE_CHECKPOINT).next_offset == 0
    assert not REDRIVE_CHECKPOINT.topic.replace("-", "").isalnum()


def test_a_batch_record_has_its_total_and_the_next_offsets() -> None:
    record = batch_record(batch(Range(AT, 0, 2), Range(BESIDE, 3, 4)), StagedBatch((event(0), event(1), event(3, at=BESIDE))))
    assert record.outcome_counts == OutcomeCounts(stored=3)
    assert record.ends == {AT: 2, BESIDE: 4}
