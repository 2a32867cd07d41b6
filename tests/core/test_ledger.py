"""The ledger's values: tallies add up, heads know what is missing, a snapshot answers for partitions nobody took yet."""

from __future__ import annotations

from analytics_defs.core.ingest.batch_builder import StagedBatch
from analytics_defs.core.ledger import OUTCOMES, REDRIVE_CHECKPOINT, Checkpoint, LedgerSnapshot, OutcomeCounts, TopicState
from analytics_defs.core.offsets import Range, TopicPartition
from tests.core.ingest.batches import AT, BESIDE, accounted, batch, event

TOPIC = TopicState("ProductDeleted", 1, "id", {0: 5})


def test_tallies_add_up_by_outcome() -> None:
    tally = OutcomeCounts(1, 2, 3, 4, 5, 6)
    assert tally.total == 21
    assert tally + OutcomeCounts(stored=1) == OutcomeCounts(2, 2, 3, 4, 5, 6)
    assert tally + -tally == OutcomeCounts()
    assert tuple(tally.as_dict()) == OUTCOMES


def test_a_head_misses_what_has_no_outcome() -> None:
    assert Checkpoint(AT, 5, 10, totals=OutcomeCounts(stored=3, lost=2)).unaccounted == 0
    assert Checkpoint(AT, 5, 10, totals=OutcomeCounts(stored=3)).unaccounted == 2
    assert Checkpoint(AT, 5, 10, totals=OutcomeCounts(stored=6)).unaccounted == -1


def test_a_partition_nobody_took_begins_where_its_topic_was_opened_and_later_ones_at_0() -> None:
    snapshot = LedgerSnapshot({TOPIC.topic: TOPIC})
    assert snapshot.checkpoint(TOPIC.partition(0)) == Checkpoint(TOPIC.partition(0), 5, 5)
    assert snapshot.checkpoint(TOPIC.partition(1)) == Checkpoint(TOPIC.partition(1), 0, 0)


def test_starts_of_one_generation_do_not_count_for_another() -> None:
    snapshot = LedgerSnapshot({TOPIC.topic: TOPIC})
    earlier = TopicPartition(TOPIC.topic, 0, 0)
    assert snapshot.checkpoint(earlier) == Checkpoint(earlier, 0, 0)


def test_a_head_that_is_there_is_the_answer() -> None:
    head = Checkpoint(TOPIC.partition(0), 5, 9, "batch")
    assert LedgerSnapshot({TOPIC.topic: TOPIC}, {head.topic_partition: head}).checkpoint(head.topic_partition) is head


def test_the_redrive_head_begins_at_0_and_no_topic_has_its_name() -> None:
    assert LedgerSnapshot().checkpoint(REDRIVE_CHECKPOINT).next_offset == 0
    assert not REDRIVE_CHECKPOINT.topic.replace("-", "").isalnum()


def test_a_record_knows_its_total_and_where_heads_stand_afterwards() -> None:
    record = accounted(batch(Range(AT, 0, 2), Range(BESIDE, 3, 4)), StagedBatch((event(0), event(1), event(3, at=BESIDE))))
    assert record.tally == OutcomeCounts(stored=3)
    assert record.ends == {AT: 2, BESIDE: 4}
