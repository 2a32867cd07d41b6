"""Prove every connection, permission and shape before the first record is read. Nothing that is there is changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from analytics_defs.errors import AnalyticsError, ResourceMissing

NamedCheck: TypeAlias = tuple[str, Callable[[], str]]
"""What is to be proven; and the call that answers what was found, or raises why it cannot be."""


class Checkable(Protocol):
    """One broker or store, as far as it has to be proven."""

    @property
    def name(self) -> str:
        """What it is and where, for people."""
        ...

    def checks(self) -> Sequence[NamedCheck]:
        """In an order in which each makes sense only when the one before it was answered."""
        ...


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One question and its answer."""

    subject: str
    check: str
    finding: str = ""
    fault: AnalyticsError | None = None

    @property
    def passed(self) -> bool:
        return self.fault is None


def run_preflight(grounds: Sequence[Checkable], on_proof: Callable[[CheckResult], None] = lambda _: None) -> list[CheckResult]:
    """Every ground is asked, so that all faults are heard at once; one that does not answer, or is not there, is not asked further."""
    proofs = []
    for ground in grounds:
        for question, ask in ground.checks():
            proofs.append(_proof(ground.name, question, ask))
            on_proof(proofs[-1])
            if (fault := proofs[-1].fault) and (fault.retryable or isinstance(fault, ResourceMissing)):
                break
    return proofs


def _proof(ground: str, question: str, ask: Callable[[], str]) -> CheckResult:
    try:
        return CheckResult(ground, question, ask())
    except AnalyticsError as fault:
        return CheckResult(ground, question, fault=fault)
