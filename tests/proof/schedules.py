"""Every schedule of several executors of the real flow, up to a number of preemptions and crashes.

A schedule says whose call comes next, call by call. A preemption is a switch from an executor that could have gone on; a crash ends an
executor between two of its calls (before one is after the one before it: both are covered). Reads of records and topics are no calls
here: in these scenes nothing is produced meanwhile, so they commute with everything.

Schedules that lead to the same state (of the stores and of what each executor knows) go on together: that is why millions fit.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from tests.proof.doors import Call, Door
from tests.proof.states import Executor, States, outcome_of

ENDED, DEAD = -1, -2
NOBODY = -1
CRASH = 0
PORTS = ("event_log", "recent_events", "object_store", "ledger")

World: TypeAlias = tuple[int, ...]
"""Numbers of the four stores' states, in the order of PORTS."""
Step: TypeAlias = tuple[int, int, int]
"""The world's number and the executor's node afterwards, and how many calls it took."""


def is_call(call: Call) -> bool:
    """Whether somebody may come between this call and the one before it. Nothing here changes what the log's readers see."""
    return call.port != "event_log" or call.method in {"commit", "committed"}


class State(NamedTuple):
    world: int
    """The number of the stores' states together."""
    nodes: tuple[int, ...]
    """Of each executor; ENDED or DEAD where it does nothing any more."""
    current: int
    preemptions: int
    """How many may still come. Below 0: without a limit."""
    crashes: int


class Move(NamedTuple):
    executor: int
    calls: int
    """CRASH where it dies instead."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A schedule that breaks an invariant."""

    fault: str
    schedule: str


@dataclass(slots=True)
class Verdict:
    schedules: int = 0
    states: int = 0
    worlds: int = 0
    finding: Finding | None = None


@dataclass(slots=True)
class Scene:
    """The stores as they are at the start, who works on them, and what must hold."""

    stores: dict[str, Any]
    """The double behind each port."""
    executors: dict[str, Callable[[Door], None]]
    """What each one runs, through its door. A call of the port `whole` gets all the doubles, and changes none."""
    faults: Callable[[dict[str, Any]], Iterator[str]]
    """In every state."""
    faults_at_end: Callable[[dict[str, Any]], Iterator[str]]
    """When everybody ended or died, and others recovered: gets copies, and may change them."""
    may_fail: tuple[type[Exception], ...] = ()
    """What an executor may end with."""
    states: dict[str, States[Any]] = field(init=False)
    actors: list[Executor] = field(init=False)

    def __post_init__(self) -> None:
        self.states = {port: States(self.stores[port]) for port in PORTS}
        self.actors = [Executor(name, run, is_call) for name, run in self.executors.items()]


class Search:
    """Depth first, those schedules first that let everybody go on."""

    def __init__(self, scene: Scene, preemptions: int, crashes: int) -> None:
        self._scene = scene
        self._first = State(0, (0,) * len(scene.actors), NOBODY, preemptions, crashes)
        self._worlds: list[World] = [(0,) * len(PORTS)]
        self._numbers: dict[World, int] = {self._worlds[0]: 0}
        self._steps: dict[tuple[int, int, int], Step] = {}
        self._calls: dict[tuple[int, int, int], tuple[int, int]] = {}
        self._ends: dict[tuple[int, int, int], Step] = {}
        self._failures: list[str] = []
        self._checked: dict[tuple[int, bool], str | None] = {}

    def run(self) -> Verdict:
        """Ends with the first fault."""
        collects = gc.isenabled()
        gc.disable()  # which looks through millions of states again and again, none of which is garbage
        try:
            return self._run()
        finally:
            if collects:
                gc.enable()

    def _run(self) -> Verdict:
        verdict = Verdict()
        schedules: dict[State, int] = {}
        path: list[tuple[State, list[tuple[Move, State]], int]] = [(self._first, list(self._moves(self._first)), 0)]
        trail: list[Move] = []
        while path:
            state, moves, at = path[-1]
            if at < len(moves):
                move, following = moves[at]
                path[-1] = (state, moves, at + 1)
                if following in schedules:
                    continue
                trail.append(move)
                if fault := self._fault(following):
                    verdict.finding = Finding(fault, self.written(trail))
                    return verdict
                path.append((following, list(self._moves(following)), 0))
            else:
                schedules[state] = sum(schedules[following] for _, following in moves) or 1
                path.pop()
                if trail:
                    trail.pop()
        return Verdict(schedules[self._first], len(schedules), len(self._worlds))

    def _moves(self, state: State) -> Iterator[tuple[Move, State]]:
        going = [each for each, node in enumerate(state.nodes) if node >= 0]
        alone = not state.preemptions and not state.crashes
        for each in going:
            switch = state.current not in (NOBODY, each)
            if switch and state.preemptions == 0:
                continue
            left = state.preemptions - (switch and state.preemptions > 0)
            world, node, calls = (
                self._to_its_end(state.world, each, state.nodes[each]) if alone else self._step(state.world, each, state.nodes[each])
            )
            yield Move(each, calls), self._state(world, _with(state.nodes, each, node), each, left, state.crashes)
            if state.crashes and state.nodes[each] and not switch:
                dead = _with(state.nodes, each, DEAD)
                yield Move(each, CRASH), self._state(state.world, dead, NOBODY, state.preemptions, state.crashes - 1)

    def _state(self, world: int, nodes: tuple[int, ...], current: int, preemptions: int, crashes: int) -> State:
        """States that differ only in what can no longer matter are one."""
        if nodes[current] < 0 or preemptions < 0:
            current = NOBODY
        if preemptions > 0 and sum(node >= 0 for node in nodes) < 2:
            preemptions = 0
        return State(world, nodes, current, preemptions, crashes)

    def _step(self, world: int, executor: int, number: int) -> Step:
        """Its next call."""
        key = world, executor, number
        if key not in self._steps:
            self._steps[key] = *self._called(world, executor, number), 1
        return self._steps[key]

    def _to_its_end(self, world: int, executor: int, number: int) -> Step:
        """All its calls, where nobody may come between; or those up to the first fault."""
        key = world, executor, number
        if key not in self._ends:
            following, node, calls = self._step(world, executor, number)
            if node >= 0 and not self._fault_of(following, at_end=False):
                following, node, more = self._to_its_end(following, executor, node)
                calls += more
            self._ends[key] = following, node, calls
        return self._ends[key]

    def _called(self, number: int, executor: int, at: int) -> tuple[int, int]:
        """World and node after the call. What one store answers does not depend on the others."""
        actor, world = self._scene.actors[executor], self._worlds[number]
        call = actor.nodes[at].call
        assert call is not None
        if call.port not in PORTS:
            outcome = outcome_of(lambda: call.args[0](self._stores(number, copy=False)))
            return number, self._node(executor, actor.after(at, outcome))
        port = PORTS.index(call.port)
        key = executor, at, world[port]
        if key not in self._calls:
            outcome, after = self._scene.states[call.port].after(world[port], call)
            self._calls[key] = after, self._node(executor, actor.after(at, outcome))
        after, node = self._calls[key]
        return self._world(_with(world, port, after)), node

    def _world(self, world: World) -> int:
        number = self._numbers.setdefault(world, len(self._worlds))
        if number == len(self._worlds):
            self._worlds.append(world)
        return number

    def _stores(self, world: int, *, copy: bool) -> dict[str, Any]:
        states = {port: (self._scene.states[port], number) for port, number in zip(PORTS, self._worlds[world], strict=True)}
        return {port: each.copy(number) if copy else each[number] for port, (each, number) in states.items()}

    def _node(self, executor: int, number: int) -> int:
        """ENDED for every way to end well; below DEAD for a failure that must not be."""
        node = self._scene.actors[executor].nodes[number]
        if node.call is not None:
            return number
        if node.failure is None or isinstance(node.failure, self._scene.may_fail):
            return ENDED
        self._failures.append(f"{self._scene.actors[executor].name} failed: {type(node.failure).__name__}: {node.failure}")
        return DEAD - len(self._failures)

    def _fault(self, state: State) -> str | None:
        for node in state.nodes:
            if node < DEAD:
                return self._failures[DEAD - node - 1]
        return self._fault_of(state.world, at_end=all(node < 0 for node in state.nodes))

    def _fault_of(self, world: int, *, at_end: bool) -> str | None:
        key = world, at_end
        if key not in self._checked:
            found = self._scene.faults_at_end if at_end else self._scene.faults
            self._checked[key] = next(found(self._stores(world, copy=at_end)), None)
        return self._checked[key]

    def walk(self, choose: Callable[[Sequence[Move]], Move]) -> tuple[str, dict[str, Any]]:
        """One schedule to its end, move by move as chosen; and the stores then."""
        state, trail = self._first, []
        while moves := dict(self._moves(state)):
            move = choose(list(moves))
            trail.append(move)
            state = moves[move]
        return self.written(trail), self._stores(state.world, copy=True)

    def written(self, trail: Sequence[Move]) -> str:
        """`a1*12 b1*3 a1! b1*9`: twelve calls of a1, three of b1, a1 dies, nine of b1."""
        words: list[tuple[str, int]] = []
        for move in trail:
            name, calls = self._scene.actors[move.executor].name, move.calls
            if words and calls and words[-1][0] == name and words[-1][1]:
                calls += words.pop()[1]
            words.append((name, calls))
        return " ".join(f"{name}*{calls}" if calls else f"{name}!" for name, calls in words)


def _with(values: tuple[int, ...], at: int, value: int) -> tuple[int, ...]:
    return (*values[:at], value, *values[at + 1 :])
