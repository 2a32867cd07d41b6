"""What is prepared and proven before the first record, on grounds that say what a test wants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from analytics_defs.errors import AccessDenied, AnalyticsError, ResourceMissing, Unavailable
from analytics_defs.flows.setup.preflight import CheckResult, NamedCheck, run_preflight
from analytics_defs.flows.setup.provision import ProvisionResult, provision


def raising(fault: AnalyticsError) -> Callable[[], str]:
    def ask() -> str:
        raise fault

    return ask


@dataclass
class SomeGround:
    name: str
    answers: list[str | AnalyticsError] = field(default_factory=list)

    def provision(self) -> list[str]:
        for each in self.answers:
            if isinstance(each, AnalyticsError):
                raise each
        return [str(each) for each in self.answers]

    def checks(self) -> list[NamedCheck]:
        return [
            (f"question {number}", raising(each) if isinstance(each, AnalyticsError) else lambda found=each: found)  # type: ignore[misc]
            for number, each in enumerate(self.answers)
        ]


def test_setup_tries_every_ground_and_hears_all_faults() -> None:
    fault, told = Unavailable("down"), list[ProvisionResult]()
    found = provision([SomeGround("one", [fault]), SomeGround("two", ["table made"]), SomeGround("three")], told.append)
    assert found == told == [ProvisionResult("one", fault=fault), ProvisionResult("two", ("table made",)), ProvisionResult("three")]


def test_check_asks_every_ground_everything() -> None:
    fault, told = AccessDenied("may not write"), list[CheckResult]()
    found = run_preflight([SomeGround("one", ["a", fault, "b"]), SomeGround("two", ["c"])], told.append)
    assert found == told
    assert [(each.subject, each.check, each.finding, each.passed) for each in found] == [
        ("one", "question 0", "a", True),
        ("one", "question 1", "", False),
        ("one", "question 2", "b", True),
        ("two", "question 0", "c", True),
    ]


@pytest.mark.parametrize("fault", [Unavailable("down"), ResourceMissing("no bucket")])
def test_a_ground_that_does_not_answer_or_is_not_there_is_not_asked_further(fault: AnalyticsError) -> None:
    found = run_preflight([SomeGround("one", [fault, "never asked"]), SomeGround("two", ["asked"])])
    assert [(each.subject, each.fault, each.finding) for each in found] == [("one", fault, ""), ("two", None, "asked")]
