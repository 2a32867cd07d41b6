"""Random histories of a platform.

Producers, brokers, operators, failing stores, and crashing and stale executors act on it in any order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import TypeAlias

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from analytics_defs.adapters.memory import Marker, MemoryLedger, MemoryObjectStore
from analytics_defs.core.events.event import ValidationRules
from analytics_defs.core.ingest.batch_builder import BatchLimits
from analytics_defs.core.ingest.planning import Plan, PlanningPolicy
from analytics_defs.core.ledger import OutcomeCounts
from analytics_defs.core.offsets import Source, TopicPartition
from analytics_defs.errors import AnalyticsError, NotFound, Unavailable
from analytics_defs.flows.audit.balance import audit_offsets
from analytics_defs.flows.audit.hour import audit_hour
from analytics_defs.flows.ingest.accept_topic import accept_recreated_topic
from analytics_defs.flows.ingest.execute_plan import execute_plan
from analytics_defs.flows.ingest.options import IngestOptions
from analytics_defs.flows.ingest.tail_lane import TailOptions, tail_lane
from analytics_defs.flows.redrive import DeadLetterFilter, redrive_dead_letters
from analytics_defs.flows.trace.outcome import RecordOutcome
from analytics_defs.flows.trace.trace import trace_record
from tests.proof.actors import Actor
from tests.proof.agreement import Stores, faults, faults_at_rest
from tests.proof.interceptors import Crashed, Interceptor, Point, failing, intercept
from tests.proof.model import Kind, WatchedRecentEvents
from tests.proof.world import SECOND, World, event, legacy_event

TOPICS = {"ProductCreated": 2, "ProductDeleted": 1}
LENIENT, STRICT = ValidationRules(max_event_bytes=10_000), ValidationRules(max_event_bytes=300)
LIMITS = BatchLimits(max_records=4, max_hours=2)
ALL_CALLS = 1_000

RECORDS: Mapping[str, tuple[Kind, Callable[[str, str], bytes | None]]] = {
    "event": (Kind.EVENT, event),
    "broken": (Kind.BROKEN, lambda *_: b'{"id": NaN}'),
    "large": (Kind.LARGE, lambda event_id, hour: event(event_id, hour, padding="." * 500)),
    "legacy": (Kind.EVENT, lambda *_: legacy_event()),
    "other payload": (Kind.EVENT, lambda event_id, hour: event(event_id, hour, payload="other")),
    "tombstone": (Kind.TOMBSTONE, lambda *_: None),
}

Records: TypeAlias = list[tuple[str, str, str]]
"""Kind, event id and timestamp of each record."""
Fault: TypeAlias = tuple[Point, bool, type[BaseException]]
"""The call that fails, whether it takes effect first, and the exception."""

topics, numbers, lanes = st.sampled_from(sorted(TOPICS)), st.integers(0, 3), st.integers(0, 2)
ids = st.sampled_from(["a", "b", "c", "d/é"])
hours = st.sampled_from(["2024-01-15T10:30:00Z", "2024-01-15T11:05:00Z", "2023-12-31T23:59:59.999Z"])
record_lists = st.lists(st.tuples(st.sampled_from(sorted(RECORDS)), ids, hours), min_size=1, max_size=6)
points = st.integers(1, 30) | st.sampled_from(
    ["read", "begin_batch", "put_if_absent", "mark_staged", "claim", "put", "close_batch", "commit", "delete"]
)
store_faults = st.tuples(points, st.booleans(), st.sampled_from([Unavailable, Crashed]))


class Histories(RuleBasedStateMachine):
    """The state machine. Subclasses replace the doubles by mutants."""

    object_store: Callable[[], MemoryObjectStore] = MemoryObjectStore
    ledger: Callable[[], MemoryLedger] = MemoryLedger
    recent: Callable[[], WatchedRecentEvents] = WatchedRecentEvents

    @initialize(count=st.integers(1, 3), rules=st.sampled_from([LENIENT, STRICT]), first=record_lists, others=record_lists)
    def set_up(self, count: int, rules: ValidationRules, first: Records, others: Records) -> None:
        recent = type(self).recent()
        self.world = World(
            recent_events=recent,
            object_store=type(self).object_store(),
            ledger=type(self).ledger(),
            policy=PlanningPolicy(count),
            topics=[],
        )
        self.model = recent.model
        for topic, partitions in TOPICS.items():
            self.world.create(topic, partitions)
        self.current_rules, self.write_event_json, self.runs = rules, True, 0
        self.plans: list[Plan] = []
        self.stale: list[Actor] = []
        self.outcomes: dict[Source, RecordOutcome] = {}
        self.open: dict[TopicPartition, int] = {}
        self.produce("ProductCreated", 1, first)
        self.produce("ProductDeleted", 0, others)

    # Producers and brokers.

    @rule(topic=topics, number=numbers, records=record_lists)
    def produce(self, topic: str, number: int, records: Records) -> None:
        number = number % self._partitions(topic)
        for name, event_id, hour in records:
            kind, value = RECORDS[name]
            self.model.kinds[self.world.produce(value(event_id, hour), partition=number, topic=topic)] = kind

    @rule(topic=topics, number=numbers, kind=st.sampled_from(["aborted", Marker.CONTROL, Marker.COMPACTED]))
    def write_an_unreadable_offset(self, topic: str, number: int, kind: str | Marker) -> None:
        number = number % self._partitions(topic)
        if self.world.partition(number, topic) in self.open:
            return  # the end of the transaction decides whether its records are committed
        if isinstance(kind, Marker):
            offset = self.world.event_log.append_marker(topic, number, kind)
        else:
            offset = self.world.event_log.append(topic, number, event("a"), aborted=True)
        self.model.kinds[self.world.source(offset, number, topic)] = Kind.NOTHING

    @rule(topic=topics, number=numbers, commit=st.booleans())
    def open_or_end_a_transaction(self, topic: str, number: int, commit: bool) -> None:
        number = number % self._partitions(topic)
        topic_partition = self.world.partition(number, topic)
        if topic_partition not in self.open:
            self.world.event_log.open_transaction(topic, number)
            self.open[topic_partition] = self._stable(topic, number)
            return
        first = self.open.pop(topic_partition)
        self.world.event_log.end_transaction(topic, number, commit=commit)
        marker = self._stable(topic, number) - 1
        for offset in range(marker if commit else first, marker + 1):
            self.model.kinds[Source(topic_partition, offset)] = Kind.NOTHING

    @rule(topic=topics, number=numbers, thirds=st.integers(1, 3))
    def retention_cuts(self, topic: str, number: int, thirds: int) -> None:
        number = number % self._partitions(topic)
        topic_partition = self.world.partition(number, topic)
        low = self._stable(topic, number) * thirds // 3
        snapshot = self.world.ledger.snapshot()
        checkpoint = snapshot.checkpoint(topic_partition)
        removed_before_read = (
            topic in snapshot.topics
            and checkpoint.pending_batch_id is None
            and not self.stale
            and checkpoint.topic_partition.incarnation == snapshot.topics[topic].incarnation
        )
        for offset in range(low):
            source = Source(topic_partition, offset)
            if source not in self.outcomes and offset >= checkpoint.next_offset and source not in self.model.must_be_lost:
                (self.model.must_be_lost if removed_before_read else self.model.may_be_lost).add(source)
        self.world.event_log.retain_from(topic, number, low)

    @rule(topic=topics)
    def recreate_a_topic(self, topic: str) -> None:
        """Recreate a topic. A topic that is unknown to the ledger has no earlier incarnation."""
        known = self.world.ledger.snapshot().topics.get(topic)
        if known is None:
            return
        self.open = {partition: first for partition, first in self.open.items() if partition.topic != topic}
        self.world.recreate_topic(topic, TOPICS[topic])
        self.world.incarnations[topic] = known.incarnation + 1
        unknown_sources = [
            source
            for source in self.model.kinds
            if source.topic_partition.topic == topic and source.topic_partition.incarnation > known.incarnation
        ]
        for source in unknown_sources:
            del self.model.kinds[source]
            self.model.may_be_lost.discard(source)
            self.model.must_be_lost.discard(source)
        self.model.may_be_lost |= {
            source for source in self.model.kinds if source.topic_partition.topic == topic and source not in self.outcomes
        }
        self.model.must_be_lost -= self.model.may_be_lost

    # Operators.

    @rule(topic=topics)
    def accept(self, topic: str) -> None:
        try:
            accept_recreated_topic(topic, self.world.ports)
        except NotFound:
            pass  # the ledger already knows this incarnation

    @rule(
        change=st.sampled_from(["add a partition", "hide a record", "move the group's offset"]),
        topic=topics,
        number=numbers,
        offset=st.integers(0, 12),
    )
    def change_the_environment(self, change: str, topic: str, number: int, offset: int) -> None:
        number = number % self._partitions(topic)
        match change:
            case "hide a record":
                self.world.event_log.hide(topic, number, offset)
            case "move the group's offset":
                self.world.event_log.commit({self.world.partition(number, topic): offset})
            case "add a partition" if self._partitions(topic) < 4:
                self.world.event_log.add_partition(topic)

    @rule(rules=st.sampled_from([LENIENT, STRICT]), write_event_json=st.booleans(), count=st.integers(1, 3))
    def change_settings(self, rules: ValidationRules, write_event_json: bool, count: int) -> None:
        self.current_rules, self.write_event_json, self.world.policy = rules, write_event_json, PlanningPolicy(count)
        self.world.clock.advance(timedelta(minutes=10))

    @rule()
    def pass_the_deduplication_window(self) -> None:
        """Advance the clock by a month. First executors end and pending batches are finished, since no executor is stale that long."""
        self.recover()
        for actor in self.stale:
            actor.finish()
        self.stale.clear()
        self.recover()
        self.world.clock.advance(timedelta(days=31))

    # Executors.

    @rule(lane=lanes)
    def run_a_lane(self, lane: int) -> None:
        self._ingest(self._plan(lane), None)

    @rule(lane=lanes, fault=store_faults)
    def a_run_fails(self, lane: int, fault: Fault) -> None:
        self._ingest(self._plan(lane), fault)

    @rule(lane=lanes, fault=st.none() | store_faults)
    def a_run_tails_its_lane(self, lane: int, fault: Fault | None) -> None:
        tail_options = TailOptions(self.world.topics, replace(self.world.policy, max_offsets=LIMITS.max_records), 2 * SECOND, SECOND)
        options = self._options()
        self._execute(
            lambda interceptor: tail_lane(lane, tail_options, intercept(self.world.ports, interceptor), options, lambda _: None), fault
        )

    @precondition(lambda self: self.plans)
    @rule(which=st.integers(0, 1000), fault=st.none() | store_faults)
    def run_an_old_plan(self, which: int, fault: Fault | None) -> None:
        self._ingest(self.plans[which % len(self.plans)], fault)

    @precondition(lambda self: self.outcomes)
    @rule(rules=st.sampled_from([LENIENT, STRICT]), fault=st.none() | store_faults)
    def redrive(self, rules: ValidationRules, fault: Fault | None) -> None:
        options = replace(self._options(), validation_rules=rules)
        self._execute(
            lambda interceptor: redrive_dead_letters(DeadLetterFilter(), intercept(self.world.ports, interceptor), options), fault
        )

    @rule(lane=lanes, at=points, redrives=st.booleans())
    def start_a_stale_executor(self, lane: int, at: Point, redrives: bool) -> None:
        options, plan = self._options(), self._plan(lane)

        def run(interceptor: Interceptor) -> object:
            ports = intercept(self.world.ports, interceptor)
            return redrive_dead_letters(DeadLetterFilter(), ports, options) if redrives else execute_plan(plan, ports, options)

        actor = Actor(run)
        self.stale.append(actor)
        self._continue(actor, at)

    @precondition(lambda self: self.stale)
    @rule(which=st.integers(0, 1000), until=points | st.just(ALL_CALLS))
    def continue_a_stale_executor(self, which: int, until: Point) -> None:
        self._continue(self.stale[which % len(self.stale)], until)

    @rule()
    def recover(self) -> None:
        """Recover, then check that all stores agree, also while stale executors exist."""
        for topic in TOPICS:
            self.accept(topic)
        try:
            self._settle()
        except Unavailable:
            self._settle()  # a client missed a record, detected that, and reads it again
        self._assert_agreement()

    # Invariants.

    @invariant()
    def invariants_hold_in_every_state(self) -> None:
        if hasattr(self, "world"):
            assert list(faults(self._stores())) == []

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        for actor in self.stale:
            actor.finish()
            self._accept_failure(actor.failure)
        self.recover()

    def _settle(self) -> None:
        self.world.settle(replace(self._options(), limits=BatchLimits()))

    def _assert_agreement(self) -> None:
        snapshot = self.world.ledger.snapshot()
        live = {
            self.world.partition(number, topic): self._stable(topic, number)
            for topic in TOPICS
            if topic in snapshot.topics
            for number in range(self._partitions(topic))
        }
        assert list(faults_at_rest(self._stores(), self.world.event_log, live)) == []
        counted: Counter[RecordOutcome] = Counter()
        for source in self.model.kinds:
            trace = trace_record(str(source), self.world.ports)
            if trace.outcome in (RecordOutcome.NOT_READ, RecordOutcome.UNKNOWN_PARTITION, RecordOutcome.BEFORE_START):
                checkpoint = snapshot.checkpoint(source.topic_partition)
                assert source.offset >= checkpoint.next_offset or source.offset < checkpoint.first_offset, trace
                continue
            assert list(self.model.disagreements(source, trace)) == []
            assert self.outcomes.setdefault(source, trace.outcome) is trace.outcome, (
                f"expected {self.outcomes[source]} as before, found {trace}"
            )
            counted[trace.redrive.outcome if trace.redrive else trace.outcome] += 1
        audited = audit_offsets(self.world.ports)
        assert audited.balanced
        assert audited.totals == OutcomeCounts(
            *(
                counted[outcome]
                for outcome in (
                    RecordOutcome.STORED,
                    RecordOutcome.DUPLICATE,
                    RecordOutcome.DEAD_LETTER,
                    RecordOutcome.TOMBSTONE,
                    RecordOutcome.GAP,
                    RecordOutcome.LOST,
                )
            )
        )
        for hour in self.world.ledger.hourly_counters("0000", "9999"):
            assert audit_hour(hour, self.world.ports).findings == ()

    # Internal.

    def _stores(self) -> Stores:
        return Stores(self.world.recent_events, self.world.object_store, self.world.ledger, self.world.values, self.model.former_owners)

    def _partitions(self, topic: str) -> int:
        return len(self.world.event_log.topics([topic])[topic].partitions)

    def _stable(self, topic: str, number: int) -> int:
        topic_partition = self.world.partition(number, topic)
        return self.world.event_log.watermarks([topic_partition])[topic_partition].last_stable_offset

    def _options(self) -> IngestOptions:
        self.runs += 1
        return IngestOptions(f"run {self.runs}", self.current_rules, LIMITS, self.write_event_json)

    def _plan(self, lane: int) -> Plan:
        self.world.clock.advance(SECOND)
        plans = self.world.plan().plans
        self.plans.append(plans[lane % len(plans)])
        return self.plans[-1]

    def _ingest(self, plan: Plan, fault: Fault | None) -> None:
        options = self._options()
        self._execute(lambda interceptor: execute_plan(plan, intercept(self.world.ports, interceptor), options), fault)

    def _execute(self, run: Callable[[Interceptor], object], fault: Fault | None) -> None:
        self.world.clock.advance(SECOND)
        at, effect, kind = fault or (-1, False, Crashed)
        try:
            run(failing(at, effect, lambda call: kind(f"{call} fails")))
        except (AnalyticsError, Crashed) as failure:
            self._accept_failure(failure)

    def _continue(self, actor: Actor, until: Point) -> None:
        """Let the actor execute this many calls, or stop before its next call of this method. At least one call is executed."""
        calls = 0
        while actor.call is not None and (calls == 0 or until not in (calls, actor.call.method)):
            actor.step()
            calls += 1
        if actor.call is None:
            self.stale.remove(actor)
            self._accept_failure(actor.failure)

    def _accept_failure(self, failure: BaseException | None) -> None:
        if failure is not None and not isinstance(failure, AnalyticsError | Crashed):
            raise failure
