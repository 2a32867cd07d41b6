"""Whose stores these are: what one ledger counts is never written into another's."""

from __future__ import annotations

from dataclasses import replace

import pytest

from analytics_defs.adapters.memory import MemoryLedger, MemoryObjectStore
from analytics_defs.core.storage.object_keys import PLATFORM_ID_KEY
from analytics_defs.errors import InconsistentState
from analytics_defs.flows.setup.platform_identity import StoreIdentityCheck, register_stores
from analytics_defs.flows.setup.preflight import run_preflight
from analytics_defs.ports import Ports
from tests.proof.doors import Crashed, Door, failing, through
from tests.proof.world import World

LOOK, PUT, MARK, NOTE = range(4)
"""The calls of the first who seals: of the ledger, to put it, of the bucket, of the ledger again."""
TABLES = ("RecentEvents", "EventAggregates")


@pytest.fixture
def ports() -> Ports:
    return replace(World().ports, table_names=TABLES)


def dying(at: int, effect: bool = False) -> Door:
    return failing(at, effect, lambda call: Crashed(str(call)))


def seal_of_bucket(ports: Ports) -> str | None:
    held = ports.object_store.get(PLATFORM_ID_KEY)
    return held.decode() if held else None


def test_the_first_run_seals_ledger_and_bucket_and_all_later_ones_find_the_same(ports: Ports) -> None:
    first = register_stores("one", ports)
    assert first.tables == TABLES
    assert first.bucket_id == seal_of_bucket(ports) == f"{first.id}\none\n"
    assert register_stores("two", ports) == first == ports.ledger.snapshot().platform_id


@pytest.mark.parametrize("at", [LOOK, PUT, MARK, NOTE])
@pytest.mark.parametrize("effect", [False, True])
def test_whoever_dies_while_sealing_leaves_the_rest_to_the_next(ports: Ports, at: int, effect: bool) -> None:
    with pytest.raises(Crashed):
        register_stores("one", through(ports, dying(at, effect)))
    second = register_stores("two", ports)
    assert second.bucket_id == seal_of_bucket(ports)
    assert register_stores("three", ports) == second


@pytest.mark.parametrize("bucket", ["an empty one", "another platform's"])
def test_another_bucket_is_refused_and_nothing_is_put_into_it(ports: Ports, bucket: str) -> None:
    register_stores("one", ports)
    elsewhere = replace(ports, object_store=MemoryObjectStore())
    if bucket != "an empty one":
        register_stores("other", replace(elsewhere, ledger=MemoryLedger()))
    before = seal_of_bucket(elsewhere)
    with pytest.raises(
        InconsistentState, match=r"not the one that holds what this ledger counts.*ARCHIVE_BUCKET_NAME.*Nothing was changed"
    ):
        register_stores("two", elsewhere)
    assert seal_of_bucket(elsewhere) == before


def test_another_ledger_does_not_get_a_bucket_that_has_one(ports: Ports) -> None:
    register_stores("one", ports)
    with pytest.raises(InconsistentState, match=r"the archive of another ledger.*LEDGER_TABLE_NAME.*Nothing was changed"):
        register_stores("two", replace(ports, ledger=MemoryLedger()))


@pytest.mark.parametrize("tables", [("Recent", "EventAggregates"), ("RecentEvents", "Counters")])
def test_other_tables_are_refused_by_name(ports: Ports, tables: tuple[str, ...]) -> None:
    register_stores("one", ports)
    with pytest.raises(InconsistentState, match=rf"belongs with the tables {', '.join(TABLES)}, and here are {', '.join(tables)}"):
        register_stores("two", replace(ports, table_names=tables))


def test_of_two_that_begin_with_different_buckets_one_goes_on(ports: Ports) -> None:
    """Both have put their object before either has noted it in the ledger."""
    elsewhere = replace(ports, object_store=MemoryObjectStore())
    with pytest.raises(Crashed):
        register_stores("one", through(ports, dying(NOTE)))
    assert register_stores("two", elsewhere).bucket_id == seal_of_bucket(elsewhere)
    with pytest.raises(InconsistentState, match="not the one that holds what this ledger counts"):
        register_stores("one", ports)


def test_an_archive_that_was_moved_on_purpose_is_taken_with_its_object(ports: Ports) -> None:
    first = register_stores("one", ports)
    moved = replace(ports, object_store=MemoryObjectStore())
    moved.object_store.put([found for found in [ports.object_store.get_object(PLATFORM_ID_KEY)] if found])
    assert register_stores("two", moved) == first


def test_the_check_says_whether_stores_belong_together_and_changes_nothing(ports: Ports) -> None:
    def found(ports: Ports) -> str:
        [proof] = run_preflight([StoreIdentityCheck(ports)])
        return str(proof.fault or proof.finding)

    assert found(ports) == "ledger and bucket have no seal yet: the first run seals them"
    assert (ports.ledger.snapshot().platform_id, seal_of_bucket(ports)) == (None, None)
    with pytest.raises(Crashed):
        register_stores("one", through(ports, dying(MARK)))
    assert found(ports).endswith("which the next run puts into the bucket")
    assert seal_of_bucket(ports) is None
    register_stores("two", ports)
    assert found(ports).endswith("and the bucket carries it")
    assert "not the one that holds what this ledger counts" in found(replace(ports, object_store=MemoryObjectStore()))
    assert "belongs with the tables" in found(replace(ports, table_names=("Others", "EventAggregates")))
    assert "the archive of another ledger" in found(replace(ports, ledger=MemoryLedger()))
