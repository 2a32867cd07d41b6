"""DynamoDB for tests: moto in this process, or the server that the environment names. Each fixture creates tables and deletes them."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from moto import mock_aws

from analytics_defs.adapters.dynamodb.client import DynamoConfig
from analytics_defs.adapters.dynamodb.ledger_transactions import LedgerTables
from analytics_defs.adapters.dynamodb.requests import DynamoClient
from analytics_defs.adapters.dynamodb.tables import TableSchema, create_tables, expected_tables


@dataclass(frozen=True, slots=True)
class DynamoUnderTest:
    dynamo: DynamoClient
    recent_events: str
    ledger: LedgerTables

    @property
    def tables(self) -> tuple[TableSchema, ...]:
        return expected_tables(self.recent_events, self.ledger)


@contextmanager
def moto_dynamo() -> Iterator[DynamoUnderTest]:
    with mock_aws(), _tables(DynamoClient(DynamoConfig(region="us-east-1"), sleep=_fail_on_sleep)) as under_test:
        yield under_test


@contextmanager
def real_dynamo() -> Iterator[DynamoUnderTest]:
    with _tables(DynamoClient(real_config())) as under_test:
        yield under_test


DYNAMOS: dict[str, Callable[[], AbstractContextManager[DynamoUnderTest]]] = {"moto": moto_dynamo, "real": real_dynamo}


def real_config() -> DynamoConfig:
    """Return the configuration of the real server. Fail if the environment names none."""
    try:
        return DynamoConfig(
            endpoint=os.environ["DYNAMO_ENDPOINT"],
            access_key=os.environ["AWS_ACCESS_KEY_ID"],
            secret_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        )
    except KeyError as missing:
        raise AssertionError(f"{missing} is not set: tests marked `real` need DynamoDB. Run `make test-real`.") from None


@contextmanager
def _tables(dynamo: DynamoClient) -> Iterator[DynamoUnderTest]:
    suffix = uuid.uuid4().hex[:12]
    under_test = DynamoUnderTest(dynamo, f"recent-{suffix}", LedgerTables(f"ledger-{suffix}", f"aggregates-{suffix}"))
    try:
        create_tables(dynamo, under_test.tables)
        yield under_test
    finally:
        for table in under_test.tables:
            dynamo.call("delete_table", [table.name], TableName=table.name)
        dynamo.close()


def _fail_on_sleep(seconds: float) -> None:
    raise AssertionError(f"no test with moto may wait, found a pause of {seconds} s")
