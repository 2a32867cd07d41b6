"""Identity of the stores: data counted in one ledger is never written to the bucket of another."""

from __future__ import annotations

from dataclasses import replace

import pytest

from analytics_defs.adapters.memory import MemoryLedger, MemoryObjectStore
from analytics_defs.core.storage.object_keys import PLATFORM_ID_KEY
from analytics_defs.errors import InconsistentState
from analytics_defs.flows.setup.platform_identity import StoreIdentityCheck, register_stores
from analytics_defs.flows.setup.preflight import run_preflight
from analytics_defs.ports import Ports
from tests.proof.interceptors import Crashed, Interceptor, failing, intercept
from tests.proof.world import World

READ_LEDGER, PUT_ID, PUT_OBJECT, REGISTER_BUCKET = range(4)
"""Calls of the first registration, in order."""
TABLES = ("RecentEvents", "EventAggregates")


@pytest.fixture
def ports() -> Ports:
    return replace(World().ports, table_names=TABLES)


def crash(at: int, effect: bool = False) -> Interceptor:
    return failing(at, effect, lambda call: Crashed(str(call)))


def bucket_id(ports: Ports) -> str | None:
    data = ports.object_store.get(PLATFORM_ID_KEY)
    return data.decode() if data else None


def test_the_first_run_registers_ledger_and_bucket_for_all_later_runs(ports: Ports) -> None:
    first = register_stores("one", ports)
    assert first.tables == TABLES
    assert first.bucket_id == bucket_id(ports) == f"{first.id}\none\n"
    assert register_stores("two", ports) == first == ports.ledger.snapshot().platform_id


@pytest.mark.parametrize("at", [READ_LEDGER, PUT_ID, PUT_OBJECT, REGISTER_BUCKET])
@pytest.mark.parametrize("effect", [False, True])
def test_a_registration_is_resumed_after_a_crash_at_any_call(ports: Ports, at: int, effect: bool) -> None:
    with pytest.raises(Crashed):
        register_stores("one", intercept(ports, crash(at, effect)))
    second = register_stores("two", ports)
    assert second.bucket_id == bucket_id(ports)
    assert register_stores("three", ports) == second


@pytest.mark.parametrize("bucket", ["empty", "of another platform"])
def test_another_bucket_is_refused_and_not_written_to(ports: Ports, bucket: str) -> None:
    register_stores("one", ports)
    elsewhere = replace(ports, object_store=MemoryObjectStore())
    if bucket != "empty":
        register_stores("other", replace(elsewhere, ledger=MemoryLedger()))
    before = bucket_id(elsewhere)
    with pytest.raises(
        InconsistentState, match=r"not the one that holds what this ledger counts.*ARCHIVE_BUCKET_NAME.*Nothing was changed"
    ):
        register_stores("two", elsewhere)
    assert bucket_id(elsewhere) == before


def test_the_bucket_of_one_ledger_is_refused_for_another(ports: Ports) -> None:
    register_stores("one", ports)
    with pytest.raises(InconsistentState, match=r"the archive of another ledger.*LEDGER_TABLE_NAME.*Nothing was changed"):
        register_stores("two", replace(ports, ledger=MemoryLedger()))


@pytest.mark.parametrize("tables", [("Recent", "EventAggregates"), ("RecentEvents", "Counters")])
def test_other_tables_are_refused_and_named(ports: Ports, tables: tuple[str, ...]) -> None:
    register_stores("one", ports)
    with pytest.raises(InconsistentState, match=rf"belongs to the tables {', '.join(TABLES)}, and the settings name {', '.join(tables)}"):
        register_stores("two", replace(ports, table_names=tables))


def test_of_two_runs_with_different_buckets_one_is_rejected(ports: Ports) -> None:
    """Both runs have written their object before one of them registers it in the ledger."""
    elsewhere = replace(ports, object_store=MemoryObjectStore())
    with pytest.raises(Crashed):
        register_stores("one", intercept(ports, crash(REGISTER_BUCKET)))
    assert register_stores("two", elsewhere).bucket_id == bucket_id(elsewhere)
    with pytest.raises(InconsistentState, match="not the one that holds what this ledger counts"):
        register_stores("one", ports)


def test_a_moved_archive_is_accepted_with_its_id_object(ports: Ports) -> None:
    first = register_stores("one", ports)
    moved = replace(ports, object_store=MemoryObjectStore())
    moved.object_store.put([object_ for object_ in [ports.object_store.get_object(PLATFORM_ID_KEY)] if object_])
    assert register_stores("two", moved) == first


def test_preflight_reports_whether_stores_belong_together_and_changes_nothing(ports: Ports) -> None:
    def finding(ports: Ports) -> str:
        [result] = run_preflight([StoreIdentityCheck(ports)])
        return str(result.error or result.finding)

    assert finding(ports) == "ledger and bucket have no platform id yet: the first run creates it"
    assert (ports.ledger.snapshot().platform_id, bucket_id(ports)) == (None, None)
    with pytest.raises(Crashed):
        register_stores("one", intercept(ports, crash(PUT_OBJECT)))
    assert finding(ports).endswith("which the next run writes to the bucket")
    assert bucket_id(ports) is None
    register_stores("two", ports)
    assert finding(ports).endswith("and the bucket holds the same id")
    assert "not the one that holds what this ledger counts" in finding(replace(ports, object_store=MemoryObjectStore()))
    assert "belongs to the tables" in finding(replace(ports, table_names=("Others", "EventAggregates")))
    assert "the archive of another ledger" in finding(replace(ports, ledger=MemoryLedger()))
