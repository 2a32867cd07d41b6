"""An isolated environment on the servers: its own topics, tables, bucket and settings, filled by the simulated shop."""

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
"""One, two and three lanes get the same number of partitions of each topic."""
ANALYTICS = str(Path(sys.executable).with_name("analytics"))


@contextmanager
def servers(folder: Path) -> Iterator[Mapping[str, str]]:
    """Run real servers with empty data for the duration of the block, with their addresses in the environment."""
    server_group.stop(folder)
    server_group.start(folder)
    try:
        settings = read_env_file(folder / "env")
        os.environ.update(settings)
        yield settings
    finally:
        server_group.stop(folder)


@dataclass(frozen=True, slots=True)
class World:
    """An isolated environment."""

    environment: Mapping[str, str]
    """Its settings, as environment variables."""

    @property
    def settings(self) -> Settings:
        before = dict(os.environ)
        os.environ.update(self.environment)
        try:
            return load_settings()
        finally:  # a variable that stayed would replace a default in the next world
            os.environ.clear()
            os.environ.update(before)

    @property
    def ports(self) -> Ports:
        return wiring.build_ports(self.settings)

    def command(self, *words: str) -> None:
        """Run an `analytics` command to its end. Raise CalledProcessError if it fails."""
        subprocess.run([ANALYTICS, *words], env=os.environ | self.environment, check=True, stdout=subprocess.DEVNULL)

    def python(self, *words: str) -> bytes:
        """Run a Python process to its end and return its output. Raise CalledProcessError if it fails."""
        return subprocess.run([sys.executable, *words], env=os.environ | self.environment, check=True, stdout=subprocess.PIPE).stdout

    def produce(self, count: int, *words: str) -> None:
        """Publish distinct, valid, timely events in current form, of about 410 bytes each."""
        self.command("produce", "--count", str(count), *(f"--{ratio}=0" for ratio in ("legacy", "late", "duplicated", "broken")), *words)

    def closed(self) -> int:
        """Return the number of closed offsets of all partitions."""
        return sum(checkpoint.next_offset - checkpoint.first_offset for checkpoint in self.ports.ledger.snapshot().checkpoints.values())

    def verify(self, events: int) -> None:
        """Raise AssertionError unless exactly this number of events was stored.

        A result counts only if nothing was lost.
        """
        audit = audit_offsets(self.ports)
        assert audit.balanced, audit.differences
        assert (audit.totals.stored, audit.totals.total, audit.pending) == (events, events, ()), audit.totals


def new_world(**changes: str) -> World:
    """Return a world whose topics, tables and bucket exist. `changes`: settings by name in lower case."""
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
