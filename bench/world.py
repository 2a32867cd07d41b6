"""A world of its own on the servers: topics, tables, bucket and settings that nothing else uses, filled by the simulated shop."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from analytics_defs import wiring
from analytics_defs.config import Settings, load_settings
from analytics_defs.devstack import server_group
from analytics_defs.devstack.env_file import read_env_file
from analytics_defs.flows.audit.balance import audit_offsets
from analytics_defs.ports import Ports

TOPICS, PARTITIONS = 4, 6
"""Of each topic, one, two and three lanes get equal shares."""
ANALYTICS = str(Path(sys.executable).with_name("analytics"))


@contextmanager
def servers(folder: Path) -> Iterator[Mapping[str, str]]:
    """Real servers with empty data, for the length of the block. Their addresses are in the environment until then."""
    server_group.stop(folder)
    server_group.start(folder)
    try:
        found = read_env_file(folder / "env")
        os.environ.update(found)
        yield found
    finally:
        server_group.stop(folder)


@dataclass(frozen=True, slots=True)
class World:
    """Settings by their names in the environment."""

    environment: Mapping[str, str]

    @property
    def settings(self) -> Settings:
        before = dict(os.environ)
        os.environ.update(self.environment)
        try:
            return load_settings()
        finally:  # the next world has its own, and the defaults where it says nothing
            os.environ.clear()
            os.environ.update(before)

    @property
    def ports(self) -> Ports:
        return wiring.build_ports(self.settings)

    def command(self, *words: str) -> None:
        """One `analytics` command, to its end. Raises CalledProcessError."""
        subprocess.run([ANALYTICS, *words], env=os.environ | self.environment, check=True, stdout=subprocess.DEVNULL)

    def python(self, *words: str) -> bytes:
        """What a Python process of its own prints, to its end. Raises CalledProcessError."""
        return subprocess.run([sys.executable, *words], env=os.environ | self.environment, check=True, stdout=subprocess.PIPE).stdout

    def produce(self, count: int, *words: str) -> None:
        """Distinct, valid, timely events in current form, of about 410 bytes."""
        self.command("produce", "--count", str(count), *(f"--{share}=0" for share in ("legacy", "late", "repeated", "broken")), *words)

    def closed(self) -> int:
        """Offsets closed so far, over all partitions."""
        return sum(head.next_offset - head.first_offset for head in self.ports.ledger.snapshot().checkpoints.values())

    def prove(self, events: int) -> None:
        """A figure counts only for a run that lost nothing. Raises AssertionError where the account says otherwise."""
        found = audit_offsets(self.ports)
        assert found.balanced, found.differences
        assert (found.totals.stored, found.totals.total, found.pending) == (events, events, ()), found.totals


def new_world(**changes: str) -> World:
    """Topics, tables and bucket are there when this returns. `changes`: settings in lower case."""
    suffix = uuid.uuid4().hex[:8]
    names = {
        "KAFKA_TOPICS": ",".join(f"bench-{suffix}-{number}" for number in range(TOPICS)),
        "KAFKA_GROUP_ID": f"bench-{suffix}",
        "RECENT_EVENTS_TABLE_NAME": f"BenchRecentEvents-{suffix}",
        "LEDGER_TABLE_NAME": f"BenchIngestLedger-{suffix}",
        "AGGREGATES_TABLE_NAME": f"BenchEventAggregates-{suffix}",
        "ARCHIVE_BUCKET_NAME": f"bench-{suffix}",
    }
    world = World(names | {name.upper(): value for name, value in changes.items()})
    world.command("setup", "--partitions", str(PARTITIONS))
    return world
