"""Whose stores these are: what one ledger counts is never written into another's."""

from __future__ import annotations

from dataclasses import replace

import pytest

from analytics_defs.adapters.memory import MemoryArchive, MemoryLedger
from analytics_defs.core.storage.object_keys import SEAL
from analytics_defs.errors import Contradiction
from analytics_defs.flows.setup.platform_identity import Belonging, require_seal
from analytics_defs.flows.setup.preflight import check
from analytics_defs.ports import Ports
from tests.proof.doors import Crashed, Door, failing, through
from tests.proof.world import World

LOOK, PUT, MARK, NOTE = range(4)
"""The calls of the first who seals: of the ledger, to put it, of the bucket, of the ledger again."""
TABLES = ("RecentEvents", "EventAggregates")


@pytest.fixture
def ports() -> Ports:
    return replace(World().ports, tables=TABLES)


def dying(at: int, effect: bool = False) -> Door:
    return failing(at, effect, lambda call: Crashed(str(call)))


def seal_of_bucket(ports: Ports) -> str | None:
    held = ports.archive.get(SEAL)
    return held.decode() if held else None


def test_the_first_run_seals_ledger_and_bucket_and_all_later_ones_find_the_same(ports: Ports) -> None:
    first = require_seal("one", ports)
    assert first.tables == TABLES
    assert first.mark == seal_of_bucket(ports) == f"{first.id}\none\n"
    assert require_seal("two", ports) == first == ports.ledger.snapshot().seal


@pytest.mark.parametrize("at", [LOOK, PUT, MARK, NOTE])
@pytest.mark.parametrize("effect", [False, True])
def test_whoever_dies_while_sealing_leaves_the_rest_to_the_next(ports: Ports, at: int, effect: bool) -> None:
    with pytest.raises(Crashed):
        require_seal("one", through(ports, dying(at, effect)))
    second = require_seal("two", ports)
    assert second.mark == seal_of_bucket(ports)
    assert require_seal("three", ports) == second


@pytest.mark.parametrize("bucket", ["an empty one", "another platform's"])
def test_another_bucket_is_refused_and_nothing_is_put_into_it(ports: Ports, bucket: str) -> None:
    require_seal("one", ports)
    elsewhere = replace(ports, archive=MemoryArchive())
    if bucket != "an empty one":
        require_seal("other", replace(elsewhere, ledger=MemoryLedger()))
    before = seal_of_bucket(elsewhere)
    with pytest.raises(Contradiction, match=r"not the one that holds what this ledger counts.*ARCHIVE_BUCKET_NAME.*Nothing was changed"):
        require_seal("two", elsewhere)
    assert seal_of_bucket(elsewhere) == before


def test_another_ledger_does_not_get_a_bucket_that_has_one(ports: Ports) -> None:
    require_seal("one", ports)
    with pytest.raises(Contradiction, match=r"the archive of another ledger.*LEDGER_TABLE_NAME.*Nothing was changed"):
        require_seal("two", replace(ports, ledger=MemoryLedger()))


@pytest.mark.parametrize("tables", [("Recent", "EventAggregates"), ("RecentEvents", "Counters")])
def test_other_tables_are_refused_by_name(ports: Ports, tables: tuple[str, ...]) -> None:
    require_seal("one", ports)
    with pytest.raises(Contradiction, match=rf"belongs with the tables {', '.join(TABLES)}, and here are {', '.join(tables)}"):
        require_seal("two", replace(ports, tables=tables))


def test_of_two_that_begin_with_different_buckets_one_goes_on(ports: Ports) -> None:
    """Both have put their object before either has noted it in the ledger."""
    elsewhere = replace(ports, archive=MemoryArchive())
    with pytest.raises(Crashed):
        require_seal("one", through(ports, dying(NOTE)))
    assert require_seal("two", elsewhere).mark == seal_of_bucket(elsewhere)
    with pytest.raises(Contradiction, match="not the one that holds what this ledger counts"):
        require_seal("one", ports)


def test_an_archive_that_was_moved_on_purpose_is_taken_with_its_object(ports: Ports) -> None:
    first = require_seal("one", ports)
    moved = replace(ports, archive=MemoryArchive())
    moved.archive.put([found for found in [ports.archive.fetch(SEAL)] if found])
    assert require_seal("two", moved) == first


def test_the_check_says_whether_stores_belong_together_and_changes_nothing(ports: Ports) -> None:
    def found(ports: Ports) -> str:
        [proof] = check([Belonging(ports)])
        return str(proof.fault or proof.found)

    assert found(ports) == "ledger and bucket have no seal yet: the first run seals them"
    assert (ports.ledger.snapshot().seal, seal_of_bucket(ports)) == (None, None)
    with pytest.raises(Crashed):
        require_seal("one", through(ports, dying(MARK)))
    assert found(ports).endswith("which the next run puts into the bucket")
    assert seal_of_bucket(ports) is None
    require_seal("two", ports)
    assert found(ports).endswith("and the bucket carries it")
    assert "not the one that holds what this ledger counts" in found(replace(ports, archive=MemoryArchive()))
    assert "belongs with the tables" in found(replace(ports, tables=("Others", "EventAggregates")))
    assert "the archive of another ledger" in found(replace(ports, ledger=MemoryLedger()))
