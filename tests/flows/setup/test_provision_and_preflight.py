"""What is prepared and proven before the first record, on grounds that say what a test wants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from analytics_defs.errors import AnalyticsError, Denied, Missing, Unavailable
from analytics_defs.flows.setup.preflight import Proof, Question, check
from analytics_defs.flows.setup.provision import Prepared, setup


def raising(fault: AnalyticsError) -> Callable[[], str]:
    def ask() -> str:
        raise fault

    return ask


@dataclass
class SomeGround:
    name: str
    answers: list[str | AnalyticsError] = field(default_factory=list)

    def prepare(self) -> list[str]:
        for each in self.answers:
            if isinstance(each, AnalyticsError):
                raise each
        return [str(each) for each in self.answers]

    def questions(self) -> list[Question]:
        return [
            (f"question {number}", raising(each) if isinstance(each, AnalyticsError) else lambda found=each: found)  # type: ignore[misc]
            for number, each in enumerate(self.answers)
        ]


def test_setup_tries_every_ground_and_hears_all_faults() -> None:
    fault, told = Unavailable("down"), list[Prepared]()
    found = setup([SomeGround("one", [fault]), SomeGround("two", ["table made"]), SomeGround("three")], told.append)
    assert found == told == [Prepared("one", fault=fault), Prepared("two", ("table made",)), Prepared("three")]


def test_check_asks_every_ground_everything() -> None:
    fault, told = Denied("may not write"), list[Proof]()
    found = check([SomeGround("one", ["a", fault, "b"]), SomeGround("two", ["c"])], told.append)
    assert found == told
    assert [(each.ground, each.question, each.found, each.holds) for each in found] == [
        ("one", "question 0", "a", True),
        ("one", "question 1", "", False),
        ("one", "question 2", "b", True),
        ("two", "question 0", "c", True),
    ]


@pytest.mark.parametrize("fault", [Unavailable("down"), Missing("no bucket")])
def test_a_ground_that_does_not_answer_or_is_not_there_is_not_asked_further(fault: AnalyticsError) -> None:
    found = check([SomeGround("one", [fault, "never asked"]), SomeGround("two", ["asked"])])
    assert [(each.ground, each.fault, each.found) for each in found] == [("one", fault, ""), ("two", None, "asked")]
