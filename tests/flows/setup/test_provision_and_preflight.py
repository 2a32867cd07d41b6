"""Provisioning and preflight checks, with scripted brokers and stores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from analytics_defs.errors import AccessDenied, AnalyticsError, ResourceNotReady, Unavailable
from analytics_defs.flows.setup.preflight import CheckResult, run_preflight
from analytics_defs.flows.setup.provision import ProvisionResult, provision
from analytics_defs.ports import NamedCheck


def raising(fault: AnalyticsError) -> Callable[[], str]:
    def check() -> str:
        raise fault

    return check


@dataclass
class ScriptedStore:
    name: str
    results: list[str | AnalyticsError] = field(default_factory=list)

    def provision(self) -> list[str]:
        for result in self.results:
            if isinstance(result, AnalyticsError):
                raise result
        return [str(result) for result in self.results]

    def checks(self) -> list[NamedCheck]:
        return [
            (f"check {number}", raising(result) if isinstance(result, AnalyticsError) else lambda finding=result: finding)  # type: ignore[misc]
            for number, result in enumerate(self.results)
        ]


def test_setup_runs_every_provisioner_and_reports_all_faults() -> None:
    fault, reported = Unavailable("down"), list[ProvisionResult]()
    results = provision([ScriptedStore("one", [fault]), ScriptedStore("two", ["table made"]), ScriptedStore("three")], reported.append)
    assert results == reported == [ProvisionResult("one", error=fault), ProvisionResult("two", ("table made",)), ProvisionResult("three")]


def test_preflight_runs_every_check_of_every_store() -> None:
    fault, reported = AccessDenied("may not write"), list[CheckResult]()
    results = run_preflight([ScriptedStore("one", ["a", fault, "b"]), ScriptedStore("two", ["c"])], reported.append)
    assert results == reported
    assert [(result.subject, result.check, result.finding, result.passed) for result in results] == [
        ("one", "check 0", "a", True),
        ("one", "check 1", "", False),
        ("one", "check 2", "b", True),
        ("two", "check 0", "c", True),
    ]


@pytest.mark.parametrize("fault", [Unavailable("down"), ResourceNotReady("no bucket")])
def test_further_checks_of_an_unavailable_or_missing_store_are_skipped(fault: AnalyticsError) -> None:
    results = run_preflight([ScriptedStore("one", [fault, "skipped"]), ScriptedStore("two", ["a"])])
    assert [(result.subject, result.error, result.finding) for result in results] == [("one", fault, ""), ("two", None, "a")]
