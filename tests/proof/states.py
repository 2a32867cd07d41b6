"""States of stores and of executors as small numbers, so that millions of schedules of the real flow can be searched.

A store's state after a call is a function of the state before and the call. An executor's next call is a function of what its calls
answered so far. Both functions are computed by running the real double and the real flow, once for each new pair, and remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, ValuesView
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Generic, TypeVar

from analytics_defs.core.ledger import LedgerSnapshot
from tests.proof.doors import Call, Door

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call came to."""

    value: Any = None
    error: Exception | None = None

    def unwrap(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value


def outcome_of(perform: Callable[[], Any]) -> Outcome:
    try:
        value = perform()
    except Exception as error:  # noqa: BLE001 - whatever the double raises is its answer
        return Outcome(error=error)
    return Outcome(tuple(value) if isinstance(value, Iterator) else value)


def frozen(value: Any) -> Any:
    """A hashable value that is equal where the contents are."""
    if isinstance(value, str | bytes | int | None):
        return value
    if is_dataclass(value):
        return type(value), tuple(frozen(getattr(value, each)) for each in vars(type(value))["__dataclass_fields__"])
    match value:
        case dict() | Mapping():
            return frozenset((frozen(key), frozen(each)) for key, each in value.items())
        case list() | tuple():
            return tuple(map(frozen, value))
        case set():
            return frozenset(value)
    return value


def _copied(value: Any) -> Any:
    """Containers are copied, what is in them is shared: nothing in a double changes but its containers."""
    match value:
        case dict():
            return {key: _copied(each) for key, each in value.items()}
        case list() | set():
            return type(value)(map(_copied, value))
        case _:
            return value


class States(Generic[S]):
    """The states of one double, numbered in the order of their discovery; 0 is the one it came in."""

    def __init__(self, first: S) -> None:
        self._states: list[S] = []
        self._numbers: dict[Any, int] = {}
        self._number(first)

    def __len__(self) -> int:
        return len(self._states)

    def __getitem__(self, number: int) -> S:
        """Whoever calls methods that change it works on `copy`."""
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
        number = self._numbers.setdefault(frozen(vars(state)), len(self._states))
        if number == len(self._states):
            self._states.append(state)
        return number


class Parked(BaseException):
    """Unwinds an executor at a call that has no answer yet."""

    def __init__(self, call: Call) -> None:
        super().__init__(str(call))
        self.call = call


Question = tuple[str, Any, Any]
"""Of a snapshot: which of its mappings, which key, and the answer."""
_EVERYTHING = object()
_NOTHING = object()


class _Asked(Mapping[Any, Any]):
    """A mapping that notes what it is asked. Who asks the same and is told the same does the same."""

    def __init__(self, name: str, content: Mapping[Any, Any], note: Callable[[Question], None]) -> None:
        self._name, self._content, self._note = name, content, note

    def __getitem__(self, key: Any) -> Any:
        self._note((self._name, key, frozen(self._content.get(key, _NOTHING))))
        return self._content[key]

    def __iter__(self) -> Iterator[Any]:
        self._note((self._name, _EVERYTHING, frozen(self._content)))
        return iter(self._content)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def values(self) -> ValuesView[Any]:
        """All at once, also where the caller takes them one by one."""
        self._note((self._name, _EVERYTHING, frozen(self._content)))
        return self._content.values()


def _observed(snapshot: LedgerSnapshot, note: Callable[[Question], None]) -> LedgerSnapshot:
    """The seal is asked for before the plan that is searched here."""
    mappings = (each.name for each in fields(snapshot) if each.name != "platform_id")
    asked: dict[str, Any] = {name: _Asked(name, getattr(snapshot, name), note) for name in mappings}
    return replace(snapshot, **asked)


def _answers(outcome: Outcome, questions: Sequence[Question]) -> bool:
    for name, key, answer in questions:
        content = getattr(outcome.value, name)
        if frozen(content if key is _EVERYTHING else content.get(key, _NOTHING)) != answer:
            return False
    return True


@dataclass(slots=True)
class Node:
    """An executor after certain answers: parked at `call`, or ended."""

    past: tuple[Outcome, ...]
    call: Call | None
    failure: Exception | None = None
    """What it ended with, where that was an error."""
    asked: tuple[Question, ...] = ()
    """What it asked the last answer, if that was a snapshot of the ledger."""
    following: dict[Any, int] = field(default_factory=dict)
    """The node after an answer."""
    after_snapshot: list[int] = field(default_factory=list)


class Executor:
    """The decisions of one executor: `run` is the real flow, and gets the door of its ports."""

    def __init__(self, name: str, run: Callable[[Door], None], is_call: Callable[[Call], bool]) -> None:
        """What is no call is performed whenever the flow is run again: nothing may change what it answers."""
        self.name = name
        self._run, self._is_call = run, is_call
        self.nodes = [self._executed(())]

    def after(self, number: int, outcome: Outcome) -> int:
        """The node that follows when the call at which it is parked came to this."""
        node = self.nodes[number]
        if isinstance(outcome.value, LedgerSnapshot):
            for each in node.after_snapshot:
                if _answers(outcome, self.nodes[each].asked):
                    return each
            node.after_snapshot.append(self._add((*node.past, outcome)))
            return node.after_snapshot[-1]
        key = frozen(outcome.value), repr(outcome.error)
        if key not in node.following:
            node.following[key] = self._add((*node.past, outcome))
        return node.following[key]

    def _add(self, past: tuple[Outcome, ...]) -> int:
        self.nodes.append(self._executed(past))
        return len(self.nodes) - 1

    def _executed(self, past: tuple[Outcome, ...]) -> Node:
        """Run the flow once more from its start, with the answers of the past, to its next call."""
        calls = 0
        asked: list[Question] = []

        def door(call: Call, perform: Callable[[], Any]) -> Any:
            nonlocal calls
            if not self._is_call(call):
                return perform()
            calls += 1
            if calls > len(past):
                raise Parked(call)
            value = past[calls - 1].unwrap()
            return _observed(value, note_of(calls)) if isinstance(value, LedgerSnapshot) else value

        def note_of(number: int) -> Callable[[Question], None]:
            def note(question: Question) -> None:
                if calls != number:
                    raise AssertionError(f"{self.name} asks a snapshot after its next call: such an answer has to be part of the node")
                if number == len(past):
                    asked.append(question)

            return note

        try:
            self._run(door)
        except Parked as parked:
            return Node(past, parked.call, None, tuple(asked))
        except Exception as error:  # noqa: BLE001 - its end, for the search to judge
            return Node(past, None, error, tuple(asked))
        return Node(past, None, None, tuple(asked))
