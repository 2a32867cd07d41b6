"""Random histories of a platform: what producers, brokers, operators, failing stores, dying and late executors do to it, in any order."""

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
from tests.proof.doors import Crashed, Door, Point, failing, through
from tests.proof.model import Kind, WatchedRecentEvents
from tests.proof.world import SECOND, World, event, legacy_event

TOPICS = {"ProductCreated": 2, "ProductDeleted": 1}
LENIENT, STRICT = ValidationRules(max_event_bytes=10_000), ValidationRules(max_event_bytes=300)
LIMITS = BatchLimits(max_records=4, max_hours=2)
MANY_CALLS = 1_000

RECORDS: Mapping[str, tuple[Kind, Callable[[str, str], bytes | None]]] = {
    "event": (Kind.EVENT, event),
    "broken": (Kind.BROKEN, lambda *_: b'{"id": NaN}'),
    "large": (Kind.LARGE, lambda event_id, hour: event(event_id, hour, padding="." * 500)),
    "legacy": (Kind.EVENT, lambda *_: legacy_event()),
    "other payload": (Kind.EVENT, lambda event_id, hour: event(event_id, hour, payload="other")),
    "tombstone": (Kind.TOMBSTONE, lambda *_: None),
}

Records: TypeAlias = list[tuple[str, str, str]]
"""What, event id, timestamp."""
Fault: TypeAlias = tuple[Point, bool, type[BaseException]]
"""At which call, after it took effect or without, and how."""

topics, numbers, lanes = st.sampled_from(sorted(TOPICS)), st.integers(0, 3), st.integers(0, 2)
ids = st.sampled_from(["a", "b", "c", "d/é"])
hours = st.sampled_from(["2024-01-15T10:30:00Z", "2024-01-15T11:05:00Z", "2023-12-31T23:59:59.999Z"])
some_records = st.lists(st.tuples(st.sampled_from(sorted(RECORDS)), ids, hours), min_size=1, max_size=6)
points = st.integers(1, 30) | st.sampled_from(
    ["read", "begin_batch", "put_if_absent", "mark_staged", "claim", "put", "close_batch", "commit", "delete"]
)
store_faults = st.tuples(points, st.booleans(), st.sampled_from([Unavailable, Crashed]))


class Histories(RuleBasedStateMachine):
    """Subclasses put mutants in place of the doubles."""

    archive: Callable[[], MemoryObjectStore] = MemoryObjectStore
    ledger: Callable[[], MemoryLedger] = MemoryLedger
    recent: Callable[[], WatchedRecentEvents] = WatchedRecentEvents

    @initialize(count=st.integers(1, 3), rules=st.sampled_from([LENIENT, STRICT]), first=some_records, others=some_records)
    def begin(self, count: int, rules: ValidationRules, first: Records, others: Records) -> None:
        recent = type(self).recent()
        self.world = World(
            recent_events=recent, object_store=type(self).archive(), ledger=type(self).ledger(), policy=PlanningPolicy(count), topics=[]
        )
        self.model = recent.model
        for topic, partitions in TOPICS.items():
            self.world.create(topic, partitions)
        self.rules_now, self.write_event_json, self.runs = rules, True, 0
        self.plans: list[Plan] = []
        self.late: list[Actor] = []
        self.fates: dict[Source, RecordOutcome] = {}
        self.open: dict[TopicPartition, int] = {}
        self.produce("ProductCreated", 1, first)
        self.produce("ProductDeleted", 0, others)

    # Producers and brokers.

    @rule(topic=topics, number=numbers, records=some_records)
    def produce(self, topic: str, number: int, records: Records) -> None:
        number = number % self._partitions(topic)
        for what, event_id, hour in records:
            kind, value = RECORDS[what]
            self.model.kinds[self.world.produce(value(event_id, hour), partition=number, topic=topic)] = kind

    @rule(topic=topics, number=numbers, what=st.sampled_from(["aborted", Marker.CONTROL, Marker.COMPACTED]))
    def write_what_no_reader_gets(self, topic: str, number: int, what: str | Marker) -> None:
        number = number % self._partitions(topic)
        if self.world.partition(number, topic) in self.open:
            return  # the end of the transaction decides what its records are
        if isinstance(what, Marker):
            offset = self.world.event_log.append_marker(topic, number, what)
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

    @rule(topic=topics, number=numbers, share=st.integers(1, 3))
    def retention_cuts(self, topic: str, number: int, share: int) -> None:
        number = number % self._partitions(topic)
        topic_partition = self.world.partition(number, topic)
        low = self._stable(topic, number) * share // 3
        snapshot = self.world.ledger.snapshot()
        head = snapshot.checkpoint(topic_partition)
        sure = (
            topic in snapshot.topics
            and head.pending_batch_id is None
            and not self.late
            and head.topic_partition.incarnation == snapshot.topics[topic].incarnation
        )
        for offset in range(low):
            source = Source(topic_partition, offset)
            if source not in self.fates and offset >= head.next_offset and source not in self.model.must_be_lost:
                (self.model.must_be_lost if sure else self.model.may_be_lost).add(source)
        self.world.event_log.retain_from(topic, number, low)

    @rule(topic=topics)
    def recreate_a_topic(self, topic: str) -> None:
        """A topic that the ledger never met has no earlier life."""
        known = self.world.ledger.snapshot().topics.get(topic)
        if known is None:
            return
        self.open = {each: first for each, first in self.open.items() if each.topic != topic}
        self.world.create_again(topic, TOPICS[topic])
        self.world.lives[topic] = known.incarnation + 1
        never_met = [
            each
            for each in self.model.kinds
            if each.topic_partition.topic == topic and each.topic_partition.incarnation > known.incarnation
        ]
        for source in never_met:
            del self.model.kinds[source]
            self.model.may_be_lost.discard(source)
            self.model.must_be_lost.discard(source)
        self.model.may_be_lost |= {each for each in self.model.kinds if each.topic_partition.topic == topic and each not in self.fates}
        self.model.must_be_lost -= self.model.may_be_lost

    # Operators.

    @rule(topic=topics)
    def accept(self, topic: str) -> None:
        try:
            accept_recreated_topic(topic, self.world.ports)
        except NotFound:
            pass  # it is the one the ledger knows

    @rule(
        what=st.sampled_from(["add a partition", "hide a record", "move the group's offset"]),
        topic=topics,
        number=numbers,
        offset=st.integers(0, 12),
    )
    def somebody_does(self, what: str, topic: str, number: int, offset: int) -> None:
        number = number % self._partitions(topic)
        match what:
            case "hide a record":
                self.world.event_log.hide(topic, number, offset)
            case "move the group's offset":
                self.world.event_log.commit({self.world.partition(number, topic): offset})
            case "add a partition" if self._partitions(topic) < 4:
                self.world.event_log.add_partition(topic)

    @rule(rules=st.sampled_from([LENIENT, STRICT]), write_event_json=st.booleans(), count=st.integers(1, 3))
    def change_settings(self, rules: ValidationRules, write_event_json: bool, count: int) -> None:
        self.rules_now, self.write_event_json, self.world.policy = rules, write_event_json, PlanningPolicy(count)
        self.world.clock.advance(timedelta(minutes=10))

    @rule()
    def ids_expire(self) -> None:
        """Nobody sleeps for a month: executors end before that, and what they left pending is finished."""
        self.rest()
        for actor in self.late:
            actor.finish()
        self.late.clear()
        self.rest()
        self.world.clock.advance(timedelta(days=31))

    # Executors.

    @rule(lane=lanes)
    def run_a_lane(self, lane: int) -> None:
        self._ingest(self._plan(lane), None)

    @rule(lane=lanes, fault=store_faults)
    def a_run_fails(self, lane: int, fault: Fault) -> None:
        self._ingest(self._plan(lane), fault)

    @rule(lane=lanes, fault=st.none() | store_faults)
    def a_run_follows_its_lane(self, lane: int, fault: Fault | None) -> None:
        following = TailOptions(self.world.topics, replace(self.world.policy, max_offsets=LIMITS.max_records), 2 * SECOND, SECOND)
        conduct = self._conduct()
        self._execute(lambda door: tail_lane(lane, following, through(self.world.ports, door), conduct, lambda _: None), fault)

    @precondition(lambda self: self.plans)
    @rule(which=st.integers(0, 1000), fault=st.none() | store_faults)
    def run_an_old_plan(self, which: int, fault: Fault | None) -> None:
        self._ingest(self.plans[which % len(self.plans)], fault)

    @precondition(lambda self: self.fates)
    @rule(rules=st.sampled_from([LENIENT, STRICT]), fault=st.none() | store_faults)
    def redrive(self, rules: ValidationRules, fault: Fault | None) -> None:
        conduct = replace(self._conduct(), validation_rules=rules)
        self._execute(lambda door: redrive_dead_letters(DeadLetterFilter(), through(self.world.ports, door), conduct), fault)

    @rule(lane=lanes, at=points, redrives=st.booleans())
    def start_and_fall_asleep(self, lane: int, at: Point, redrives: bool) -> None:
        conduct, plan = self._conduct(), self._plan(lane)

        def run(door: Door) -> object:
            ports = through(self.world.ports, door)
            return redrive_dead_letters(DeadLetterFilter(), ports, conduct) if redrives else execute_plan(plan, ports, conduct)

        actor = Actor(run)
        self.late.append(actor)
        self._let(actor, at)

    @precondition(lambda self: self.late)
    @rule(which=st.integers(0, 1000), until=points | st.just(MANY_CALLS))
    def wake_up(self, which: int, until: Point) -> None:
        self._let(self.late[which % len(self.late)], until)

    @rule()
    def rest(self) -> None:
        """Recover, then everything has to be there and to agree, also while somebody sleeps."""
        for topic in TOPICS:
            self.accept(topic)
        try:
            self._settle()
        except Unavailable:
            self._settle()  # a client hid a record, noticed, and reads it again
        self._must_agree()

    # What must hold.

    @invariant()
    def nothing_is_broken_meanwhile(self) -> None:
        if hasattr(self, "world"):
            assert list(faults(self._stores())) == []

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        for actor in self.late:
            actor.finish()
            self._accept_failure(actor.failure)
        self.rest()

    def _settle(self) -> None:
        self.world.settle(replace(self._conduct(), limits=BatchLimits()))

    def _must_agree(self) -> None:
        snapshot = self.world.ledger.snapshot()
        live = {
            self.world.partition(number, topic): self._stable(topic, number)
            for topic in TOPICS
            if topic in snapshot.topics
            for number in range(self._partitions(topic))
        }
        assert list(faults_at_rest(self._stores(), self.world.event_log, live)) == []
        found: Counter[RecordOutcome] = Counter()
        for source in self.model.kinds:
            told = trace_record(str(source), self.world.ports)
            if told.outcome in (RecordOutcome.NOT_READ, RecordOutcome.UNKNOWN_PARTITION, RecordOutcome.BEFORE_START):
                head = snapshot.checkpoint(source.topic_partition)
                assert source.offset >= head.next_offset or source.offset < head.first_offset, told
                continue
            assert list(self.model.disagreements(source, told)) == []
            assert self.fates.setdefault(source, told.outcome) is told.outcome, f"it was {self.fates[source]}: {told}"
            found[told.redrive.outcome if told.redrive else told.outcome] += 1
        audited = audit_offsets(self.world.ports)
        assert audited.balanced
        assert audited.totals == OutcomeCounts(
            *(
                found[each]
                for each in (
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

    # Details.

    def _stores(self) -> Stores:
        return Stores(self.world.recent_events, self.world.object_store, self.world.ledger, self.world.values, self.model.dethroned)

    def _partitions(self, topic: str) -> int:
        return len(self.world.event_log.topics([topic])[topic].partitions)

    def _stable(self, topic: str, number: int) -> int:
        each = self.world.partition(number, topic)
        return self.world.event_log.watermarks([each])[each].last_stable_offset

    def _conduct(self) -> IngestOptions:
        self.runs += 1
        return IngestOptions(f"run {self.runs}", self.rules_now, LIMITS, self.write_event_json)

    def _plan(self, lane: int) -> Plan:
        self.world.clock.advance(SECOND)
        plans = self.world.plan().plans
        self.plans.append(plans[lane % len(plans)])
        return self.plans[-1]

    def _ingest(self, plan: Plan, fault: Fault | None) -> None:
        conduct = self._conduct()
        self._execute(lambda door: execute_plan(plan, through(self.world.ports, door), conduct), fault)

    def _execute(self, run: Callable[[Door], object], fault: Fault | None) -> None:
        self.world.clock.advance(SECOND)
        at, effect, kind = fault or (-1, False, Crashed)
        try:
            run(failing(at, effect, lambda call: kind(f"{call} fails")))
        except (AnalyticsError, Crashed) as failure:
            self._accept_failure(failure)

    def _let(self, actor: Actor, until: Point) -> None:
        """It goes on for so many calls, or to its next one of this method; at least one."""
        calls = 0
        while actor.call is not None and (calls == 0 or until not in (calls, actor.call.method)):
            actor.step()
            calls += 1
        if actor.call is None:
            self.late.remove(actor)
            self._accept_failure(actor.failure)

    def _accept_failure(self, failure: BaseException | None) -> None:
        if failure is not None and not isinstance(failure, AnalyticsError | Crashed):
            raise failure
