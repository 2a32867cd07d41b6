"""Scenes for the search over all schedules. A new kind of executor is one more method of SceneBuilder and one more name in a scene."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import combinations
from typing import Any, cast

from analytics_defs.adapters.memory import InlineTaskPool, ManualClock, MemoryLedger, MemoryObjectStore, MemoryRecentEvents
from analytics_defs.core.events.event import ValidationRules
from analytics_defs.core.hours.retention import MIN_RETENTION, RetentionPolicy
from analytics_defs.core.hours.revision import ExpiredData
from analytics_defs.core.ingest.planning import Plan, PlanningPolicy, lane_of
from analytics_defs.core.ledger import OutcomeCounts
from analytics_defs.core.offsets import TopicPartition
from analytics_defs.core.repair import HourRange
from analytics_defs.core.storage.object_keys import parquet_dir
from analytics_defs.errors import InconsistentState, Superseded
from analytics_defs.flows.hours.compaction import compact_hour
from analytics_defs.flows.hours.statistics import StatisticsEngineFactory
from analytics_defs.flows.ingest.close_batch import delete_stale_staging_files
from analytics_defs.flows.ingest.execute_plan import execute_plan
from analytics_defs.flows.ingest.options import IngestOptions
from analytics_defs.flows.ingest.planning import plan_lanes
from analytics_defs.flows.ingest.read_batch import open_new_topics
from analytics_defs.flows.redrive import DeadLetterFilter, redrive_dead_letters
from analytics_defs.flows.repair.repair_range import RepairContext, repair_range
from analytics_defs.flows.retention.apply import apply_retention
from analytics_defs.flows.retention.expiry_sweep import RetentionContext
from analytics_defs.flows.trace.trace import trace_record
from analytics_defs.ports import Ports
from tests.proof.agreement import Stores, faults, faults_at_rest
from tests.proof.archived import caching_workspace, faults_of_hour, rows_by_ledger, rows_by_manifest
from tests.proof.damaged_ledger import DamagedLedger
from tests.proof.interceptors import Call, Interceptor, intercept
from tests.proof.schedules import Scene
from tests.proof.world import HOUR, NOW, RULES, World, event

TOPICS = ("ProductCreated", "ProductDeleted")
POLICY = PlanningPolicy(lanes=2)
LARGE = event("large", padding="." * 500)
STRICT = ValidationRules(max_event_bytes=300)
REPAIRED_HOURS = HourRange(HOUR, "2024-01-15T11")


@dataclass(frozen=True)
class Doubles:
    """The doubles of a scene. A mutant replaces one of them."""

    recent_events: Callable[[], MemoryRecentEvents] = MemoryRecentEvents
    object_store: Callable[[], MemoryObjectStore] = MemoryObjectStore
    ledger: Callable[[], MemoryLedger] = DamagedLedger


UNCHANGED = Doubles()


def two_lanes(doubles: Doubles = UNCHANGED) -> Scene:
    """Return a scene with two lanes that share an event id, and two executors in each lane.

    The second executor starts later, and the one of the first lane has other rules.
    """
    builder = SceneBuilder(doubles)
    first, second = (builder.topics[lane] for lane in (0, 1))
    builder.world.produce(event("shared", lane="a"), LARGE, topic=first)
    builder.world.produce(event("shared", lane="b"), topic=second)
    builder.open_topics()
    return builder.scene(
        {
            "a1": builder.lane(0, "a1"),
            "a2": builder.lane(0, "a2", STRICT),
            "b1": builder.lane(1, "b1"),
            "b2": builder.lane(1, "b2"),
        }
    )


def deleted_checkpoint(doubles: Doubles = UNCHANGED) -> Scene:
    """Return a scene in which an operator deletes a checkpoint beside its closed range, while two executors read the next record."""
    builder = SceneBuilder(doubles)
    builder.close_one_batch()
    builder.world.produce(event("late"), topic=builder.topics[0])
    return builder.damaged_scene("delete_checkpoint")


def restored_checkpoint(doubles: Doubles = UNCHANGED) -> Scene:
    """Return a scene in which an operator restores a checkpoint from before its last batch, whose offsets were not committed."""
    builder = SceneBuilder(doubles)
    partition = builder.close_one_batch()
    builder.world.event_log.commit({partition: 0})
    return builder.damaged_scene("set_checkpoint_back")


def redrives(doubles: Doubles = UNCHANGED) -> Scene:
    """Return a scene with two redrives of one dead letter.

    The lane of the dead letter reads another event with the same id, under rules that still reject the dead letter.
    """
    builder = SceneBuilder(doubles)
    topic = builder.topics[0]
    builder.world.produce(LARGE, topic=topic)
    builder.world.settle(IngestOptions("before", STRICT))
    builder.world.produce(event("large"), topic=topic)
    return builder.scene({"r1": builder.redrive("r1"), "r2": builder.redrive("r2"), "a1": builder.lane(0, "a1", STRICT)})


def compactions(doubles: Doubles = UNCHANGED) -> Scene:
    """Return a scene with two compactors of an hour that has an archive and a part.

    A lane closes one more batch of the hour at the same time.
    """
    builder = SceneBuilder(doubles)
    topic = builder.topics[0]
    for event_id in ("archived", "in a part"):
        builder.world.produce(event(event_id), topic=topic)
        builder.world.settle(IngestOptions("before", RULES))
        if event_id == "archived":
            compact_hour(HOUR, builder.world.ports, caching_workspace)
    builder.world.produce(event("late"), topic=topic)
    builder.open_topics()
    executors = {"c1": builder.compactor("c1"), "c2": builder.compactor("c2"), "a1": builder.lane(0, "a1")}
    return builder.archive_scene(executors)


def repaired_hours(doubles: Doubles = UNCHANGED) -> Scene:
    """Return a scene with a repair of an hour that has an archive and two parts, beside a compactor and a lane.

    One of the parts is restored from before the compaction. All items and event objects are deleted. The lane closes one more batch.
    """
    builder = SceneBuilder(doubles)
    world, topic = builder.world, builder.topics[0]
    for event_id in ("archived", "in a part"):
        world.produce(event(event_id), topic=topic)
        world.settle(IngestOptions("before", RULES))
        if event_id == "archived":
            parts = [obj for key, obj in world.object_store.objects.items() if key.startswith("parquet/")]
            compact_hour(HOUR, world.ports, caching_workspace)
            world.object_store.put(parts)
    world.recent_events.items.clear()
    world.object_store.delete(list(world.object_store.list_keys("events/")))
    world.produce(event("late"), topic=topic)
    builder.open_topics()
    return builder.archive_scene({"p1": builder.repair("p1"), "c1": builder.compactor("c1"), "a1": builder.lane(0, "a1")})


def repaired_id(doubles: Doubles = UNCHANGED) -> Scene:
    """Return a scene with a repair of a batch whose item and object are deleted.

    A lane reads another event with the same id at the same time.
    """
    builder = SceneBuilder(doubles)
    world, topic = builder.world, builder.topics[0]
    world.produce(event("shared", lane="first"), topic=topic)
    world.settle(IngestOptions("before", RULES))
    world.recent_events.items.clear()
    world.object_store.delete(list(world.object_store.list_keys("events/")))
    world.produce(event("shared", lane="second"), topic=topic)
    builder.open_topics()
    executors = {"p1": builder.repair("p1"), "a1": builder.lane(0, "a1")}
    return Scene(builder._stores, executors, lambda _: iter(()), builder._faults_of_id_owner, (Superseded,))


def retention_of_event_json(doubles: Doubles = UNCHANGED) -> Scene:
    """Return a scene with two retention runs over the JSON objects of an archived hour.

    A lane stores an event of the hour with an id whose deduplication window is over.
    """
    return _retention_scene(doubles, RetentionPolicy(event_json=MIN_RETENTION))


def retention_of_parquet(doubles: Doubles = UNCHANGED) -> Scene:
    """Return a scene with two retention runs over the Parquet files of an archived hour, and the same lane."""
    return _retention_scene(doubles, RetentionPolicy(parquet=MIN_RETENTION))


def _retention_scene(doubles: Doubles, ages: RetentionPolicy) -> Scene:
    builder = SceneBuilder(doubles)
    world, topic = builder.world, builder.topics[0]
    for event_id in ("again", "in a part"):
        world.produce(event(event_id), topic=topic)
        world.settle(IngestOptions("before", RULES))
    compact_hour(HOUR, world.ports, caching_workspace)
    builder.later = MIN_RETENTION + timedelta(hours=1)
    now = int((NOW + builder.later).timestamp() * 1000)
    source = world.source(world.event_log.append(topic, 0, event("again", lane="late"), timestamp_ms=now), topic=topic)
    world.values[source] = event("again", lane="late")
    builder.open_topics()
    executors = {"f1": builder.retention("f1", ages), "f2": builder.retention("f2", ages), "a1": builder.lane(0, "a1")}
    at_end = partial(builder._faults_after_expiry, ages)
    return Scene(builder._stores, executors, builder._faults_during_expiry, at_end, (Superseded,))


class SceneBuilder:
    """The stores of a scene, and the executors that a scene may use."""

    def __init__(self, doubles: Doubles) -> None:
        self.world = World(
            recent_events=doubles.recent_events(),
            object_store=doubles.object_store(),
            ledger=doubles.ledger(),
            topics=list(TOPICS),
            policy=POLICY,
        )
        self.topics = {lane_of(TopicPartition(topic, 0, 0), POLICY.lanes): topic for topic in TOPICS}
        """Topics by lane."""
        for topic in TOPICS:
            self.world.create(topic)
        self.later = timedelta(0)
        """Time between the preparation of the scene and its executors."""

    def open_topics(self) -> None:
        for plan in self.world.plan().plans:
            open_new_topics(plan, self.world.ports)

    def lane(self, lane: int, name: str, rules: ValidationRules = RULES) -> Callable[[Interceptor], None]:
        """Return an executor that plans its lane from the ledger in one call, and executes the plan."""

        def plan(stores: dict[str, Any]) -> Plan:
            return plan_lanes(TOPICS, POLICY, _ports(stores, NOW)).plans[lane]

        def run(interceptor: Interceptor) -> None:
            ports = self._ports(name)
            execute_plan(
                interceptor(Call("whole", "plan", (plan,)), lambda: plan(self._stores)),
                intercept(ports, interceptor),
                IngestOptions(name, rules),
            )

        return run

    def close_one_batch(self) -> TopicPartition:
        topic = self.topics[0]
        self.world.produce(event("closed"), topic=topic)
        self.world.settle(IngestOptions("before", RULES))
        return TopicPartition(topic, 0, 0)

    def damaged_scene(self, damage: str) -> Scene:
        """Return a scene with two executors of a lane and an operator. No record may be counted twice.

        No checkpoint may account for less than the closed ranges, unless the operator set it back.
        """

        def operator(interceptor: Interceptor) -> None:
            ledger: Any = intercept(self._ports("d1"), interceptor).ledger
            getattr(ledger, damage)(TopicPartition(self.topics[0], 0, 0))

        executors = {"a1": self.lane(0, "a1"), "a2": self.lane(0, "a2"), "d1": operator}
        return Scene(self._stores, executors, self._doubled_counts, lambda _: iter(()), (Superseded, InconsistentState))

    def _doubled_counts(self, stores: dict[str, Any]) -> Iterator[str]:
        """Yield sources that are in two closed batches, and checkpoints that account for less than their closed ranges."""
        contents, snapshot = self._contents(stores), stores["ledger"].snapshot()
        closed = [range_ for record in contents.records.values() for range_ in record.batch.ranges]
        doubled = [str(range_) for range_, other in combinations(closed, 2) if range_.end > other.start and other.end > range_.start]
        if doubled:
            yield f"closed twice: {doubled}"
        for partition, checkpoint in snapshot.checkpoints.items():
            is_set_back = checkpoint.totals == OutcomeCounts()
            if not is_set_back and checkpoint.totals.total != sum(len(range_) for range_ in closed if range_.topic_partition == partition):
                yield f"{checkpoint} does not account for {closed}"

    def redrive(self, name: str) -> Callable[[Interceptor], None]:
        def run(interceptor: Interceptor) -> None:
            redrive_dead_letters(DeadLetterFilter(), intercept(self._ports(name), interceptor), IngestOptions(name, RULES))

        return run

    def compactor(self, name: str) -> Callable[[Interceptor], None]:
        def run(interceptor: Interceptor) -> None:
            compact_hour(HOUR, intercept(self._ports(name), interceptor), caching_workspace)

        return run

    def retention(self, name: str, ages: RetentionPolicy) -> Callable[[Interceptor], None]:
        def run(interceptor: Interceptor) -> None:
            apply_retention(
                RetentionContext(intercept(self._ports(name), interceptor), cast(StatisticsEngineFactory, caching_workspace), ages)
            )

        return run

    def _faults_during_expiry(self, stores: dict[str, Any]) -> Iterator[str]:
        """Yield violations that readers see during retention.

        Readers find every row that did not expire exactly once, and miss no file. The late event has its object once it is closed.
        """
        contents = self._contents(stores)
        revision = stores["ledger"].latest_revision(HOUR)
        remaining = sum(sum(record.hours.get(HOUR, {}).values()) for record in contents.records.values()) - (
            revision.expired.expired_rows if revision else 0
        )
        for reader, rows in (("the ledger's", rows_by_ledger(contents, HOUR)), ("the manifest's", rows_by_manifest(contents, HOUR))):
            if rows is None:
                yield f"{reader} reader misses a file"
            elif len(set(rows)) != len(rows) or len(rows) < remaining:
                yield f"{reader} reader sees {rows}, {remaining} did not expire"
        yield from self._late_events_without_object(stores)

    def _late_events_without_object(self, stores: dict[str, Any]) -> Iterator[str]:
        sources = {obj.metadata["source"] for key, obj in stores["object_store"].objects.items() if key.startswith("events/")}
        for record in stores["ledger"].batch_records_from(""):
            for range_ in record.batch.ranges if record.batch.time > NOW + timedelta(days=1) else ():
                if f"{range_.topic_partition}/{range_.start}" not in sources:
                    yield f"the object of the late event {range_} is missing, found those of {sorted(sources)}"

    def _faults_after_expiry(self, ages: RetentionPolicy, stores: dict[str, Any]) -> Iterator[str]:
        """Yield violations after the lane ended and retention ran again.

        Of an expired hour only the late event remains, and one more retention run changes nothing. If the late event came before the
        expiry, the hour is too young to expire and stays complete.
        """
        recovered = World(
            **stores, clock=ManualClock(NOW + self.later + timedelta(hours=2)), topics=list(TOPICS), policy=POLICY, values=self.world.values
        )
        recovered.settle()
        context = RetentionContext(recovered.ports, cast(StatisticsEngineFactory, caching_workspace), ages)
        first_report, second_report = apply_retention(context), apply_retention(context)
        if first_report.skipped_hours or second_report.deleted or second_report.skipped_hours:
            yield f"skipped {first_report.skipped_hours}, then deleted {second_report.deleted} and skipped {second_report.skipped_hours}"
        yield from self._faults_during_expiry(stores)
        revision = recovered.ledger.latest_revision(HOUR)
        expired = revision.expired if revision else ExpiredData()
        rows = rows_by_ledger(self._contents(stores), HOUR) or []
        if len(rows) != (1 if expired.expired_batches else 3):
            yield f"{expired} expired, and the archive holds {rows}"
        remaining_batches = {obj.metadata["batch"] for key, obj in recovered.object_store.objects.items() if key.startswith("events/")}
        if len(remaining_batches) != (1 if expired.event_json_expired_through else 3):
            yield f"{expired} expired, and objects of {sorted(remaining_batches)} remain"

    def repair(self, name: str) -> Callable[[Interceptor], None]:
        def run(interceptor: Interceptor) -> None:
            # The records are in Kafka, so the repair calls only `summarize` of the workspace.
            context = RepairContext(intercept(self._ports(name), interceptor), cast(StatisticsEngineFactory, caching_workspace), RULES)
            repair_range(REPAIRED_HOURS, context)

        return run

    def _faults_of_id_owner(self, stores: dict[str, Any]) -> Iterator[str]:
        """Yield violations after one more repair: the object has to be that of the id's owner, and a further repair changes nothing."""
        recovered = World(
            **stores, clock=ManualClock(NOW + timedelta(hours=1)), topics=list(TOPICS), policy=POLICY, values=self.world.values
        )
        recovered.settle()
        for _ in range(2):  # a crashed repair may have left out an object, which the next repair writes
            (item,) = recovered.recent_events.items.values()
            for obj in (obj for key, obj in recovered.object_store.objects.items() if key.startswith("events/")):
                if (obj.metadata["source"], obj.body) != (str(item.source), self.world.values[item.source]):
                    yield f"{item.source} owns the id, and the object is that of {obj.metadata['source']}: {obj.body!r}"
            report = repair_range(REPAIRED_HOURS, RepairContext(recovered.ports, cast(StatisticsEngineFactory, caching_workspace), RULES))
            if report.conflicts or report.lost:
                yield f"conflicts {report.conflicts}, lost {report.lost}"
        if (
            last_report := repair_range(
                REPAIRED_HOURS, RepairContext(recovered.ports, cast(StatisticsEngineFactory, caching_workspace), RULES)
            )
        ).changed:
            yield f"one more repair changes {last_report.changes}"

    def archive_scene(self, executors: dict[str, Callable[[Interceptor], None]]) -> Scene:
        """Return a scene that checks what readers of the hour see in every state. Other scenes check ingest itself."""
        return Scene(
            self._stores,
            executors,
            lambda stores: faults_of_hour(self._contents(stores), HOUR),
            self._faults_after_compaction,
            (Superseded,),
        )

    def _faults_after_compaction(self, stores: dict[str, Any]) -> Iterator[str]:
        """Yield violations after recovery: the rest is ingested and compacted.

        Then one file has to contain every event, and no other file may remain.
        """
        recovered = World(
            **stores, clock=ManualClock(NOW + timedelta(hours=1)), topics=list(TOPICS), policy=POLICY, values=self.world.values
        )
        recovered.settle()
        compact_hour(HOUR, recovered.ports, caching_workspace)
        yield from faults_of_hour(self._contents(stores), HOUR)
        names = [key.rpartition("/")[2][:7] for key in recovered.object_store.list_keys(parquet_dir(HOUR))]
        if names != ["_SUCCES", "archive"]:
            yield f"the folder of the hour contains {names}"
        rows = rows_by_ledger(self._contents(stores), HOUR) or []
        if sorted(event_id for event_id, _ in rows) != ["archived", "in a part", "late"]:
            yield f"the archive holds {rows}"

    def scene(self, executors: dict[str, Callable[[Interceptor], None]]) -> Scene:
        return Scene(self._stores, executors, self._faults, self._faults_after_recovery, (Superseded,))

    @property
    def _stores(self) -> dict[str, Any]:
        return {
            "event_log": self.world.event_log,
            "recent_events": self.world.recent_events,
            "object_store": self.world.object_store,
            "ledger": self.world.ledger,
        }

    def _ports(self, name: str) -> Ports:
        """Return the ports of an executor. Each executor has its own time, so batches of two executors never have the same id."""
        return _ports(self._stores, NOW + self.later + timedelta(minutes=1, seconds=sum(name.encode())))

    def _contents(self, stores: dict[str, Any]) -> Stores:
        return Stores(stores["recent_events"], stores["object_store"], stores["ledger"], self.world.values)

    def _faults(self, stores: dict[str, Any]) -> Iterator[str]:
        return faults(self._contents(stores))

    def _faults_after_recovery(self, stores: dict[str, Any]) -> Iterator[str]:
        """Yield violations after recovery: every lane is run until nothing is left, and stale staging files are deleted.

        Then all stores have to agree, with exactly one duplicate.
        """
        recovered = World(
            **stores, clock=ManualClock(NOW + timedelta(hours=1)), topics=list(TOPICS), policy=POLICY, values=self.world.values
        )
        recovered.settle()
        redrive_dead_letters(DeadLetterFilter(), recovered.ports, IngestOptions("recovery", RULES))
        delete_stale_staging_files(recovered.ports)
        contents = self._contents(stores)
        partitions = [TopicPartition(topic, 0, 0) for topic in TOPICS]
        yield from faults_at_rest(
            contents,
            stores["event_log"],
            {
                topic_partition: watermarks.last_stable_offset
                for topic_partition, watermarks in self.world.event_log.watermarks(partitions).items()
            },
        )
        duplicates = [source for record in contents.records.values() for source in contents.lines(record.duplicates_key)]
        if len(duplicates) != 1:
            yield f"duplicates: {duplicates}, expected exactly one"
        for source in duplicates:
            trace = trace_record(str(source), recovered.ports)
            owner = (trace.redrive or trace).original_source
            if owner is None or (event_id := (trace.redrive or trace).event_id) is None or recovered.ids([event_id]) != {event_id: owner}:
                yield f"the duplicate does not lead to the source that owns the id: {trace}"


def _ports(stores: dict[str, Any], time: datetime) -> Ports:
    return Ports(**stores, clock=ManualClock(time), task_pool=InlineTaskPool())
