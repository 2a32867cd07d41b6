"""What the tests of crashed and of late executors share: records, a plan over all of them, and what an undisturbed run makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from analytics_defs.adapters.memory import ManualClock
from analytics_defs.config import Settings
from analytics_defs.core.ingest.planning import Plan
from analytics_defs.flows.setup.platform_identity import register_stores
from tests.real import data, plain, world
from tests.real.picture import Picture, differences, picture
from tests.real.world import World


@dataclass(frozen=True, slots=True)
class Scene:
    """The topics are read only: worlds beside each other read the same records, so that what they store can be compared."""

    topics: tuple[str, ...]
    now: datetime
    """What every executor's clock says. So a batch that is cut again gets the same id and the same bytes."""
    plan: Plan
    """Two batches: the two partitions of the first topic, then the one of the second."""
    expected: Picture

    @contextmanager
    def founded(self) -> Iterator[Settings]:
        """Tables and bucket of a world that nobody worked on yet, sealed: so every run makes the same calls."""
        with world.founded(world.new_settings(self.topics, batch_max_ranges=2)) as settings:
            with self.opened(settings) as found:
                register_stores("founder", found.ports)
            yield settings

    @contextmanager
    def opened(self, settings: Settings) -> Iterator[World]:
        with world.opened(settings, ManualClock(self.now)) as found:
            yield found

    def assert_whole(self, found: World, besides: str | None = None) -> None:
        """Nothing lost, nothing counted twice, no orphan: every store is byte for byte as after the undisturbed run.

        `besides`: a folder of the bucket in which somebody is at work.
        """
        seen = picture(found.settings)
        if besides:
            seen = replace(seen, objects={key: each for key, each in seen.objects.items() if not key.startswith(besides)})
        differs = differences(seen, self.expected)
        assert differs == [], "\n".join(differs)
        found.assert_sound()


def last_hours() -> tuple[str, str, str]:
    """Of events whose objects are put, and go in tars where the store unpacks them."""
    now = world.this_second()
    latest, middle, oldest = (f"{now - timedelta(hours=ago):%Y-%m-%dT%H}" for ago in (1, 2, 3))
    return latest, middle, oldest


@contextmanager
def prepared(hours: tuple[str, str, str] = data.HOURS) -> Iterator[Scene]:
    """`hours`: of the events. Objects of old ones, as these are, are written only where none is."""
    now = world.this_second()
    with plain.topics(2, 1) as topics:
        plain.produce(data.mixture(*topics, hours=hours))
        with world.new_world(topics, ManualClock(now), batch_max_ranges=2) as undisturbed:
            plan = undisturbed.whole_plan()
            closed = undisturbed.run(plan).closed
            assert [(record.tally.stored, record.tally.duplicates, record.tally.dead_letters) for record in closed] == [
                (72, 3, 2),
                (16, 2, 2),
            ]
            undisturbed.assert_sound()
            yield Scene(topics, now, plan, picture(undisturbed.settings))
