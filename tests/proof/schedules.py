"""A search over all schedules of several executors of the real flow, up to a number of preemptions and crashes.

A schedule names the executor of each call. A preemption is a switch from an executor that could have continued. A crash ends an
executor between two of its calls, which covers crashes before one call and after the previous one. Reads of records and topics are not
calls here. In these scenes nothing is produced during the search, so such reads commute with every call.

Schedules that lead to the same state (of the stores, and of each executor's knowledge) are continued once. Therefore millions of
schedules can be searched.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from tests.proof.interceptors import Call, Interceptor
from tests.proof.states import Executor, States, outcome_of

ENDED, CRASHED = -1, -2
NO_EXECUTOR = -1
CRASH = 0
PORTS = ("event_log", "recent_events", "object_store", "ledger")
PURE_METHODS = frozenset({"needs_pointer", "unclosable_reason"})
"""Methods whose answers depend on their arguments only."""

StoreStates: TypeAlias = tuple[int, ...]
"""State numbers of the four stores, in the order of PORTS."""
Step: TypeAlias = tuple[int, int, int]
"""The number of the stores' states and the executor's node after the step, and its number of calls."""


def is_call(call: Call) -> bool:
    """Return whether another executor may run between this call and the previous one.

    Pure methods and reads of the log do not count: their answers never change here.
    """
    if call.method in PURE_METHODS:
        return False
    return call.port != "event_log" or call.method in {"commit", "committed"}


class State(NamedTuple):
    world: int
    """The number of the states of all stores together."""
    nodes: tuple[int, ...]
    """The node of each executor. ENDED or CRASHED if it makes no more calls."""
    current: int
    preemptions: int
    """Preemptions that may still happen. Below 0: unlimited."""
    crashes: int


class Move(NamedTuple):
    executor: int
    calls: int
    """CRASH if the executor crashes instead."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A schedule that violates an invariant."""

    fault: str
    schedule: str


@dataclass(slots=True)
class SearchResult:
    schedules: int = 0
    states: int = 0
    store_states: int = 0
    finding: Finding | None = None


@dataclass(slots=True)
class Scene:
    """The initial stores, the executors, and the invariants."""

    stores: dict[str, Any]
    """The double behind each port."""
    executors: dict[str, Callable[[Interceptor], None]]
    """The flow of each executor, which runs through an interceptor. A call of the port `whole` gets all doubles and changes none."""
    faults: Callable[[dict[str, Any]], Iterator[str]]
    """Violations in any state."""
    faults_at_end: Callable[[dict[str, Any]], Iterator[str]]
    """Violations after all executors ended or crashed and recovery ran. Gets copies of the stores and may change them."""
    may_fail: tuple[type[Exception], ...] = ()
    """Exceptions with which an executor may end."""
    states: dict[str, States[Any]] = field(init=False)
    actors: list[Executor] = field(init=False)

    def __post_init__(self) -> None:
        self.states = {port: States(self.stores[port]) for port in PORTS}
        self.actors = [Executor(name, run, is_call) for name, run in self.executors.items()]


class Search:
    """A depth-first search. Schedules without a switch are searched first."""

    def __init__(self, scene: Scene, preemptions: int, crashes: int) -> None:
        self._scene = scene
        self._first = State(0, (0,) * len(scene.actors), NO_EXECUTOR, preemptions, crashes)
        self._store_states: list[StoreStates] = [(0,) * len(PORTS)]
        self._numbers: dict[StoreStates, int] = {self._store_states[0]: 0}
        self._steps: dict[tuple[int, int, int], Step] = {}
        self._calls: dict[tuple[int, int, int], tuple[int, int]] = {}
        self._ends: dict[tuple[int, int, int], Step] = {}
        self._failures: list[str] = []
        self._checked: dict[tuple[int, bool], str | None] = {}

    def run(self) -> SearchResult:
        """Search until the first violation."""
        collects = gc.isenabled()
        gc.disable()  # it would scan millions of states repeatedly, and none of them is garbage
        try:
            return self._run()
        finally:
            if collects:
                gc.enable()

    def _run(self) -> SearchResult:
        result = SearchResult()
        schedules: dict[State, int] = {}
        path: list[tuple[State, list[tuple[Move, State]], int]] = [(self._first, list(self._moves(self._first)), 0)]
        trail: list[Move] = []
        while path:
            state, moves, position = path[-1]
            if position < len(moves):
                move, next_state = moves[position]
                path[-1] = (state, moves, position + 1)
                if next_state in schedules:
                    continue
                trail.append(move)
                if fault := self._fault(next_state):
                    result.finding = Finding(fault, self.format_schedule(trail))
                    return result
                path.append((next_state, list(self._moves(next_state)), 0))
            else:
                schedules[state] = sum(schedules[next_state] for _, next_state in moves) or 1
                path.pop()
                if trail:
                    trail.pop()
        return SearchResult(schedules[self._first], len(schedules), len(self._store_states))

    def _moves(self, state: State) -> Iterator[tuple[Move, State]]:
        running = [executor for executor, node in enumerate(state.nodes) if node >= 0]
        without_switches = not state.preemptions and not state.crashes
        for executor in running:
            switch = state.current not in (NO_EXECUTOR, executor)
            if switch and state.preemptions == 0:
                continue
            preemptions_left = state.preemptions - (switch and state.preemptions > 0)
            world, node, calls = (
                self._run_to_end(state.world, executor, state.nodes[executor])
                if without_switches
                else self._step(state.world, executor, state.nodes[executor])
            )
            yield (
                Move(executor, calls),
                self._state(world, _replaced(state.nodes, executor, node), executor, preemptions_left, state.crashes),
            )
            if state.crashes and state.nodes[executor] and not switch:
                crashed = _replaced(state.nodes, executor, CRASHED)
                yield Move(executor, CRASH), self._state(state.world, crashed, NO_EXECUTOR, state.preemptions, state.crashes - 1)

    def _state(self, world: int, nodes: tuple[int, ...], current: int, preemptions: int, crashes: int) -> State:
        """Return the state. States that differ only in values without further effect become equal."""
        if nodes[current] < 0 or preemptions < 0:
            current = NO_EXECUTOR
        if preemptions > 0 and sum(node >= 0 for node in nodes) < 2:
            preemptions = 0
        return State(world, nodes, current, preemptions, crashes)

    def _step(self, world: int, executor: int, number: int) -> Step:
        """Return the executor's next call."""
        key = world, executor, number
        if key not in self._steps:
            self._steps[key] = *self._execute_call(world, executor, number), 1
        return self._steps[key]

    def _run_to_end(self, world: int, executor: int, number: int) -> Step:
        """Return all calls of the executor, if no other executor may run in between, or those up to the first violation."""
        key = world, executor, number
        if key not in self._ends:
            next_world, node, calls = self._step(world, executor, number)
            if node >= 0 and not self._fault_of(next_world, at_end=False):
                next_world, node, more_calls = self._run_to_end(next_world, executor, node)
                calls += more_calls
            self._ends[key] = next_world, node, calls
        return self._ends[key]

    def _execute_call(self, number: int, executor: int, at: int) -> tuple[int, int]:
        """Return world and node after the call. The answer of one store does not depend on the others."""
        actor, world = self._scene.actors[executor], self._store_states[number]
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
        return self._world(_replaced(world, port, after)), node

    def _world(self, world: StoreStates) -> int:
        number = self._numbers.setdefault(world, len(self._store_states))
        if number == len(self._store_states):
            self._store_states.append(world)
        return number

    def _stores(self, world: int, *, copy: bool) -> dict[str, Any]:
        numbered_states = {port: (self._scene.states[port], number) for port, number in zip(PORTS, self._store_states[world], strict=True)}
        return {
            port: states_of_port.copy(number) if copy else states_of_port[number]
            for port, (states_of_port, number) in numbered_states.items()
        }

    def _node(self, executor: int, number: int) -> int:
        """Return the node. ENDED for every permitted end, a number below CRASHED for a forbidden failure."""
        node = self._scene.actors[executor].nodes[number]
        if node.call is not None:
            return number
        if node.failure is None or isinstance(node.failure, self._scene.may_fail):
            return ENDED
        self._failures.append(f"{self._scene.actors[executor].name} failed: {type(node.failure).__name__}: {node.failure}")
        return CRASHED - len(self._failures)

    def _fault(self, state: State) -> str | None:
        for node in state.nodes:
            if node < CRASHED:
                return self._failures[CRASHED - node - 1]
        return self._fault_of(state.world, at_end=all(node < 0 for node in state.nodes))

    def _fault_of(self, world: int, *, at_end: bool) -> str | None:
        key = world, at_end
        if key not in self._checked:
            check = self._scene.faults_at_end if at_end else self._scene.faults
            self._checked[key] = next(check(self._stores(world, copy=at_end)), None)
        return self._checked[key]

    def walk(self, choose: Callable[[Sequence[Move]], Move]) -> tuple[str, dict[str, Any]]:
        """Execute one schedule to its end, with moves from `choose`. Return the schedule and the stores after it."""
        state, trail = self._first, []
        while moves := dict(self._moves(state)):
            move = choose(list(moves))
            trail.append(move)
            state = moves[move]
        return self.format_schedule(trail), self._stores(state.world, copy=True)

    def format_schedule(self, trail: Sequence[Move]) -> str:
        """Return `a1*12 b1*3 a1! b1*9` for: twelve calls of a1, three of b1, a1 crashes, nine of b1."""
        words: list[tuple[str, int]] = []
        for move in trail:
            name, calls = self._scene.actors[move.executor].name, move.calls
            if words and calls and words[-1][0] == name and words[-1][1]:
                calls += words.pop()[1]
            words.append((name, calls))
        return " ".join(f"{name}*{calls}" if calls else f"{name}!" for name, calls in words)


def _replaced(values: tuple[int, ...], position: int, value: int) -> tuple[int, ...]:
    return (*values[:position], value, *values[position + 1 :])
