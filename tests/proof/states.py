"""States of stores and executors as small numbers, so that millions of schedules of the real flow can be searched.

A store's next state is a function of its state and the call. An executor's next call is a function of the answers that it received.
Both functions are computed once for each new pair, by running the real double and the real flow, and are cached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, ValuesView
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Generic, TypeVar

from analytics_defs.core.ledger import LedgerSnapshot
from tests.proof.interceptors import Call, Interceptor

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a call."""

    value: Any = None
    error: Exception | None = None

    def unwrap(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value


def outcome_of(perform: Callable[[], Any]) -> Outcome:
    try:
        value = perform()
    except Exception as error:  # noqa: BLE001 - an exception of the double is its answer
        return Outcome(error=error)
    return Outcome(tuple(value) if isinstance(value, Iterator) else value)


def hashable(value: Any) -> Any:
    """Return a hashable value that is equal for equal contents."""
    if isinstance(value, str | bytes | int | None):
        return value
    if is_dataclass(value):
        return type(value), tuple(hashable(getattr(value, name)) for name in vars(type(value))["__dataclass_fields__"])
    match value:
        case dict() | Mapping():
            return frozenset((hashable(key), hashable(element)) for key, element in value.items())
        case list() | tuple():
            return tuple(map(hashable, value))
        case set():
            return frozenset(value)
    return value


def _copied(value: Any) -> Any:
    """Return a copy that shares the elements: doubles change only their containers."""
    match value:
        case dict():
            return {key: _copied(element) for key, element in value.items()}
        case list() | set():
            return type(value)(map(_copied, value))
        case _:
            return value


class States(Generic[S]):
    """The states of one double, numbered in the order of their discovery. 0 is the initial state."""

    def __init__(self, first: S) -> None:
        self._states: list[S] = []
        self._numbers: dict[Any, int] = {}
        self._number(first)

    def __len__(self) -> int:
        return len(self._states)

    def __getitem__(self, number: int) -> S:
        """Return the state. A caller of methods that change it has to use `copy`."""
        return self._states[number]

    def copy(self, number: int) -> S:
        state = self._states[number]
        twin: S = object.__new__(type(state))
        vars(twin).update({name: _copied(value) for name, value in vars(state).items()})
        return twin

    def after(self, number: int, call: Call) -> tuple[Outcome, int]:
        state = self.copy(number)
        outcome = outcome_of(lambda: getattr(state, call.method)(*call.args))
        return outcome, self._number(state)

    def _number(self, state: S) -> int:
        number = self._numbers.setdefault(hashable(vars(state)), len(self._states))
        if number == len(self._states):
            self._states.append(state)
        return number


class Parked(BaseException):
    """The exception that unwinds an executor at a call without an answer."""

    def __init__(self, call: Call) -> None:
        super().__init__(str(call))
        self.call = call


Query = tuple[str, Any, Any]
"""A query of a snapshot: mapping name, key, answer."""
_ALL_ITEMS = object()
_MISSING = object()


class _RecordingMapping(Mapping[Any, Any]):
    """A mapping that records the queries to it. An executor with the same queries and answers behaves in the same way."""

    def __init__(self, name: str, content: Mapping[Any, Any], note: Callable[[Query], None]) -> None:
        self._name, self._content, self._note = name, content, note

    def __getitem__(self, key: Any) -> Any:
        self._note((self._name, key, hashable(self._content.get(key, _MISSING))))
        return self._content[key]

    def __iter__(self) -> Iterator[Any]:
        self._note((self._name, _ALL_ITEMS, hashable(self._content)))
        return iter(self._content)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def values(self) -> ValuesView[Any]:
        """Return all values. Counts as a query of all items even if the caller reads only some."""
        self._note((self._name, _ALL_ITEMS, hashable(self._content)))
        return self._content.values()


def _observed(snapshot: LedgerSnapshot, note: Callable[[Query], None]) -> LedgerSnapshot:
    """Return the snapshot with recording mappings. The platform id is read before the searched part."""
    mappings = (attribute.name for attribute in fields(snapshot) if attribute.name != "platform_id")
    recording: dict[str, Any] = {name: _RecordingMapping(name, getattr(snapshot, name), note) for name in mappings}
    return replace(snapshot, **recording)


def _gives_same_answers(outcome: Outcome, queries: Sequence[Query]) -> bool:
    for name, key, answer in queries:
        content = getattr(outcome.value, name)
        if hashable(content if key is _ALL_ITEMS else content.get(key, _MISSING)) != answer:
            return False
    return True


@dataclass(slots=True)
class Node:
    """An executor after certain answers: stopped at `call`, or ended."""

    past: tuple[Outcome, ...]
    call: Call | None
    failure: Exception | None = None
    """The error with which it ended, if any."""
    queries: tuple[Query, ...] = ()
    """Queries of the last answer, if it was a snapshot of the ledger."""
    following: dict[Any, int] = field(default_factory=dict)
    """The next node by answer."""
    after_snapshot: list[int] = field(default_factory=list)


class Executor:
    """The decisions of one executor. `run` is the real flow, called with the interceptor of its ports."""

    def __init__(self, name: str, run: Callable[[Interceptor], None], is_call: Callable[[Call], bool]) -> None:
        """Run the flow to its first call. Other port methods run again with every new node, so their answers must never change."""
        self.name = name
        self._run, self._is_call = run, is_call
        self.nodes = [self._executed(())]

    def after(self, number: int, outcome: Outcome) -> int:
        """Return the next node if the current call had this outcome."""
        node = self.nodes[number]
        if isinstance(outcome.value, LedgerSnapshot):
            for known in node.after_snapshot:
                if _gives_same_answers(outcome, self.nodes[known].queries):
                    return known
            node.after_snapshot.append(self._add((*node.past, outcome)))
            return node.after_snapshot[-1]
        key = hashable(outcome.value), repr(outcome.error)
        if key not in node.following:
            node.following[key] = self._add((*node.past, outcome))
        return node.following[key]

    def _add(self, past: tuple[Outcome, ...]) -> int:
        self.nodes.append(self._executed(past))
        return len(self.nodes) - 1

    def _executed(self, past: tuple[Outcome, ...]) -> Node:
        """Run the flow again from its start with the recorded answers, up to its next call."""
        calls = 0
        queries: list[Query] = []

        def interceptor(call: Call, perform: Callable[[], Any]) -> Any:
            nonlocal calls
            if not self._is_call(call):
                return perform()
            calls += 1
            if calls > len(past):
                raise Parked(call)
            value = past[calls - 1].unwrap()
            return _observed(value, note_of(calls)) if isinstance(value, LedgerSnapshot) else value

        def note_of(number: int) -> Callable[[Query], None]:
            def note(query: Query) -> None:
                if calls != number:
                    raise AssertionError(f"{self.name} reads a snapshot after its next call: such an answer has to be part of the node")
                if number == len(past):
                    queries.append(query)

            return note

        try:
            self._run(interceptor)
        except Parked as parked:
            return Node(past, parked.call, None, tuple(queries))
        except Exception as error:  # noqa: BLE001 - the search decides whether this end is permitted
            return Node(past, None, error, tuple(queries))
        return Node(past, None, None, tuple(queries))
