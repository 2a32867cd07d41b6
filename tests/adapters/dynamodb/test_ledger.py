"""Tests of the ledger over DynamoDB with lost answers, conflicting transactions and damaged items."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from botocore.exceptions import ReadTimeoutError
from moto import mock_aws

from analytics_defs.adapters.dynamodb import ledger_keys as keys
from analytics_defs.adapters.dynamodb.client import DynamoConfig, connect_dynamodb
from analytics_defs.adapters.dynamodb.ledger import DynamoLedger
from analytics_defs.adapters.dynamodb.ledger_transactions import LedgerTables
from analytics_defs.adapters.dynamodb.requests import DynamoClient
from analytics_defs.adapters.dynamodb.tables import create_tables, expected_tables
from analytics_defs.core.ledger import Lease, OutcomeCounts, TopicState
from analytics_defs.core.offsets import Range, Source
from analytics_defs.errors import AnalyticsError, InconsistentState, Unavailable
from tests.adapters.dynamodb.scripted_dynamodb import DONE, Answer, scripted
from tests.contracts.ledger_fixtures import HOUR, ONE, TIME, TWO, all_stored, batch, close, redrive, redriven_record

TABLES = LedgerTables("ledger", "aggregates")
LOST = Answer.cancelled({"Code": "ConditionalCheckFailed"}, "None")


class AnswerLosingClient:
    """A client whose transactions take effect. While `losing` is true, their answers do not arrive."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.losing = False

    def transact_write_items(self, **params: Any) -> Any:
        answer = self._client.transact_write_items(**params)
        if self.losing:
            raise ReadTimeoutError(endpoint_url="http://dynamodb")
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


@contextmanager
def losing_ledger() -> Iterator[tuple[DynamoLedger, AnswerLosingClient]]:
    with mock_aws():
        config = DynamoConfig(region="us-east-1", attempts=1)
        client = AnswerLosingClient(connect_dynamodb(config))
        dynamo = DynamoClient(config, connect=lambda _: client)
        create_tables(dynamo, expected_tables("recent", TABLES))
        yield DynamoLedger(dynamo, TABLES), client
        dynamo.close()


@pytest.fixture
def losing() -> Iterator[tuple[DynamoLedger, AnswerLosingClient]]:
    with losing_ledger() as ledger_and_client:
        yield ledger_and_client


@pytest.fixture
def dynamo() -> Iterator[DynamoClient]:
    with losing_ledger() as (ledger, _):
        yield ledger._dynamo


def test_a_run_that_retries_a_begin_after_a_lost_answer_succeeds(losing: tuple[DynamoLedger, AnswerLosingClient]) -> None:
    ledger, client = losing
    begun = batch(Range(ONE, 0, 10), Range(TWO, 0, 5))
    client.losing = True
    with pytest.raises(Unavailable, match="ReadTimeoutError"):
        ledger.begin_batch(begun)
    client.losing = False
    assert ledger.begin_batch(begun)
    assert not ledger.begin_batch(replace(begun, run_id="another"))


def test_a_retried_close_after_a_lost_answer_is_refused_and_the_record_exists(losing: tuple[DynamoLedger, AnswerLosingClient]) -> None:
    ledger, client = losing
    begun = batch(Range(ONE, 0, 10))
    ledger.begin_batch(begun)
    client.losing = True
    with pytest.raises(Unavailable):
        ledger.close_batch(all_stored(begun))
    client.losing = False
    assert not ledger.close_batch(all_stored(begun))
    assert ledger.batch_record(begun.id) == all_stored(begun)
    assert ledger.counters()["events"] == 10


def test_staging_and_topic_entries_can_be_retried_after_a_lost_answer(losing: tuple[DynamoLedger, AnswerLosingClient]) -> None:
    ledger, client = losing
    begun, topic = batch(Range(ONE, 0, 10)), TopicState("ProductDeleted", 0, "id", {1: 0})
    ledger.begin_batch(begun)
    client.losing = True
    for change in (lambda: ledger.mark_staged(begun.id, "aa"), lambda: ledger.open_topic(topic)):
        with pytest.raises(Unavailable):
            change()
    client.losing = False
    assert ledger.mark_staged(begun.id, "aa")
    assert ledger.open_topic(topic) == topic


@pytest.mark.parametrize("reason", ["TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"])
def test_conflicts_and_throttling_are_retried_with_the_same_token(reason: str) -> None:
    begun = batch(Range(ONE, 0, 10))
    with scripted(Answer.cancelled(reason, "None"), DONE) as server:
        assert DynamoLedger(server.dynamo, TABLES).begin_batch(begun)
    assert server.transactions[0] == server.transactions[1]


def test_a_failed_condition_beside_a_conflict_refuses_the_begin() -> None:
    answers = Answer.cancelled("TransactionConflict", {"Code": "ConditionalCheckFailed"}), Answer({})
    with scripted(*answers) as server:
        assert not DynamoLedger(server.dynamo, TABLES).begin_batch(batch(Range(ONE, 0, 10)))
    assert len(server.transactions) == 1


def test_endless_conflicts_raise_a_retryable_error_from_close() -> None:
    with scripted(Answer.cancelled("TransactionConflict"), conflict_attempts=3) as server, pytest.raises(Unavailable) as raised:
        DynamoLedger(server.dynamo, TABLES).close_batch(all_stored(batch(Range(ONE, 0, 10))))
    assert raised.value.retryable
    assert "aggregates, ledger" in str(raised.value)


def test_a_record_is_redriven_once(dynamo: DynamoClient) -> None:
    ledger = DynamoLedger(dynamo, TABLES)
    close(ledger, batch(Range(ONE, 0, 10)), range_outcome_counts=(OutcomeCounts(stored=8, dead_letters=2),), reasons={"schema": 2})
    first, second = redrive(0, Source(ONE, 3), minute=1), redrive(1, Source(ONE, 3), Source(ONE, 4), minute=2)
    for redrive_batch in (first, second):
        assert ledger.redriven_by([Source(ONE, 3)]) == ({} if redrive_batch is first else {Source(ONE, 3): first.id})
        assert ledger.begin_batch(redrive_batch)
        if redrive_batch is first:
            assert ledger.close_batch(redriven_record(redrive_batch))
    before = ledger.snapshot(), ledger.counters()
    with pytest.raises(InconsistentState, match=f"redrive batch {second.id} is pending and cannot be closed"):
        ledger.close_batch(redriven_record(second))
    assert (ledger.snapshot(), ledger.counters()) == before


def test_a_checkpoint_of_another_batch_is_not_moved(dynamo: DynamoClient) -> None:
    ledger, begun = DynamoLedger(dynamo, TABLES), batch(Range(ONE, 0, 10))
    ledger.begin_batch(begun)
    foreign_checkpoint = keys.checkpoint_key(ONE) | {"first": {"N": "0"}, "next": {"N": "500"}, "batch": {"S": "another"}}
    dynamo.put(TABLES.ledger, foreign_checkpoint)
    with pytest.raises(InconsistentState, match=f"{begun.id} is pending and cannot be closed"):
        ledger.close_batch(all_stored(begun))
    assert dynamo.get(TABLES.ledger, keys.checkpoint_key(ONE)) == foreign_checkpoint
    assert ledger.counters() == {}


def test_a_batch_too_large_for_one_transaction_sends_no_request() -> None:
    begun = batch(*(Range(replace(ONE, partition=number), 0, 1) for number in range(100)))
    with scripted() as server, pytest.raises(AnalyticsError, match="takes 101 actions, expected at most 100"):
        DynamoLedger(server.dynamo, TABLES).begin_batch(begun)
    assert not server.requests


def test_a_damaged_item_is_named_in_the_snapshot(dynamo: DynamoClient) -> None:
    dynamo.put(TABLES.ledger, keys.checkpoint_key(ONE) | {"first": {"N": "0"}})
    snapshot = DynamoLedger(dynamo, TABLES).snapshot()
    assert (ONE in snapshot.checkpoints, list(snapshot.unreadable)) == (False, ["ProductDeleted/1"])
    assert "pk=progress sk=checkpoint#ProductDeleted/1 cannot be read (KeyError: 'next')" in snapshot.unreadable["ProductDeleted/1"]


def test_items_of_a_newer_version_do_not_change_the_snapshot(dynamo: DynamoClient) -> None:
    ledger = DynamoLedger(dynamo, TABLES)
    close(ledger, batch(Range(ONE, 0, 10)))
    before = ledger.snapshot()
    dynamo.put(TABLES.ledger, keys.item_key(keys.PROGRESS_KEY, "future#thing"))
    dynamo.put(
        TABLES.ledger,
        keys.item_key(keys.PROGRESS_KEY, "lease#run")
        | {"lane": {"N": "0"}, "renewed_at": {"S": "2024-01-15T12:00:00.000Z"}, "x": {"N": "1"}},
    )
    assert ledger.snapshot() == replace(before, leases={"run": Lease("run", 0, TIME)})


def test_a_lease_expires_a_day_after_its_last_renewal(dynamo: DynamoClient) -> None:
    DynamoLedger(dynamo, TABLES).renew_lease(Lease("run", 0, TIME))
    item = dynamo.get(TABLES.ledger, keys.lease_key("run"))
    assert item is not None
    assert item["expires"] == {"N": str(int(TIME.timestamp()) + 86_400)}


def test_nothing_else_in_the_ledger_expires(dynamo: DynamoClient) -> None:
    ledger = DynamoLedger(dynamo, TABLES)
    close(ledger, batch(Range(ONE, 0, 10)))
    ledger.begin_batch(batch(Range(ONE, 10, 20), minute=1))
    ledger.open_topic(TopicState("ProductDeleted", 0, "id", {1: 0}))
    stored_items = dynamo.call("scan", [TABLES.ledger], TableName=TABLES.ledger)["Items"]
    assert len(stored_items) == 6
    assert not any("expires" in item for item in stored_items)


def test_an_invalid_day_raises_at_once(dynamo: DynamoClient) -> None:
    with pytest.raises(ValueError, match="15-01-2024"):
        DynamoLedger(dynamo, TABLES).batches_of_day("15-01-2024")


def test_batches_beyond_one_query_page_are_all_found(dynamo: DynamoClient) -> None:
    ledger = DynamoLedger(dynamo, TABLES)
    heavy = {f"step-{number:05d}-{'x' * 80}": number for number in range(3_000)}
    records = [close(ledger, batch(Range(ONE, number, number + 1), minute=number), steps_ms=heavy) for number in range(5)]
    assert list(ledger.batches_of_day("2024-01-15")) == records
    assert ledger.last_batches(5) == records[::-1]
    assert len(ledger.batches_of_hour(HOUR)) == 5
