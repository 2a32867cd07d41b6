"""Check every connection, permission and schema before the first record is read. Nothing is changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from analytics_defs.errors import AnalyticsError, ResourceNotReady
from analytics_defs.ports import Checkable


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Result of one check."""

    subject: str
    check: str
    finding: str = ""
    error: AnalyticsError | None = None

    @property
    def passed(self) -> bool:
        return self.error is None


def run_preflight(subjects: Sequence[Checkable], on_result: Callable[[CheckResult], None] = lambda _: None) -> list[CheckResult]:
    """Run the checks of every subject, so that one call reports all errors.

    If a subject is unavailable or missing, its remaining checks are skipped.
    """
    results = []
    for subject in subjects:
        for name, check in subject.checks():
            results.append(_run_check(subject.name, name, check))
            on_result(results[-1])
            if (error := results[-1].error) and (error.retryable or isinstance(error, ResourceNotReady)):
                break
    return results


def _run_check(subject: str, name: str, check: Callable[[], str]) -> CheckResult:
    try:
        return CheckResult(subject, name, check())
    except AnalyticsError as error:
        return CheckResult(subject, name, error=error)
