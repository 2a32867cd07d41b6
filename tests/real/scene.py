"""The common setup of tests that disturb a run: records, a plan over all of them, and the stores after an undisturbed run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from analytics_defs.adapters.memory import ManualClock
from analytics_defs.config import Settings
from analytics_defs.core.ingest.planning import Plan
from analytics_defs.flows.setup.platform_identity import register_stores
from tests.real import data, raw_clients, world
from tests.real.store_snapshot import StoreSnapshot, differences, read_snapshot
from tests.real.world import World


@dataclass(frozen=True, slots=True)
class Scene:
    """Topics with records. Several platforms read the same topics, so that their stores can be compared."""

    topics: tuple[str, ...]
    now: datetime
    """The fixed time of every executor's clock, so that a batch that is built again gets the same id and the same bytes."""
    plan: Plan
    """Two batches: both partitions of the first topic, then the partition of the second topic."""
    expected: StoreSnapshot
    """The stores after an undisturbed run of the plan."""

    @contextmanager
    def provisioned(self) -> Iterator[Settings]:
        """Create empty tables and an empty bucket with a platform id, so that every run makes the same calls."""
        with world.provisioned(world.new_settings(self.topics, batch_max_ranges=2)) as settings:
            with self.opened(settings) as platform:
                register_stores("setup", platform.ports)
            yield settings

    @contextmanager
    def opened(self, settings: Settings) -> Iterator[World]:
        with world.opened(settings, ManualClock(self.now)) as platform:
            yield platform

    def assert_same_as_undisturbed(self, platform: World, ignored_folder: str | None = None) -> None:
        """Fail unless every store equals, byte for byte, the stores after the undisturbed run.

        `ignored_folder` is a folder of the bucket that another process still writes to.
        """
        actual = read_snapshot(platform.settings)
        if ignored_folder:
            objects = {key: stored for key, stored in actual.objects.items() if not key.startswith(ignored_folder)}
            actual = replace(actual, objects=objects)
        differing = differences(actual, self.expected)
        assert differing == [], "\n".join(differing)
        platform.assert_consistent()


def last_hours() -> tuple[str, str, str]:
    """Return the last three full hours, newest first. JSON objects of young events are uploaded as tars if the store unpacks them."""
    now = world.this_second()
    latest, middle, oldest = (f"{now - timedelta(hours=ago):%Y-%m-%dT%H}" for ago in (1, 2, 3))
    return latest, middle, oldest


@contextmanager
def prepared(hours: tuple[str, str, str] = data.HOURS) -> Iterator[Scene]:
    """Yield a scene whose events are of these hours. JSON objects of old hours, as by default, are written only if they are missing."""
    now = world.this_second()
    with raw_clients.topics(2, 1) as topics:
        raw_clients.produce(data.mixture(*topics, hours=hours))
        with world.new_world(topics, ManualClock(now), batch_max_ranges=2) as undisturbed:
            plan = undisturbed.whole_plan()
            closed = undisturbed.run(plan).closed
            assert [
                (record.outcome_counts.stored, record.outcome_counts.duplicates, record.outcome_counts.dead_letters) for record in closed
            ] == [
                (72, 3, 2),
                (16, 2, 2),
            ]
            undisturbed.assert_consistent()
            yield Scene(topics, now, plan, read_snapshot(undisturbed.settings))
