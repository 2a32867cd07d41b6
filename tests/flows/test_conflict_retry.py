"""Bounded retries after conflicts with other executors."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import pytest

from analytics_defs.errors import Unavailable
from analytics_defs.flows.conflict_retry import Conflict, retry_on_conflict

ERROR = "try again later"


def conflicts(number: int) -> Callable[[], int]:
    """Return a call that raises this number of conflicts, and then returns the number of its attempts."""
    attempts = count(1)

    def attempt() -> int:
        attempt_number = next(attempts)
        if attempt_number <= number:
            raise Conflict(f"conflict {attempt_number}")
        return attempt_number

    return attempt


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_first_attempt_without_conflict_is_the_result(number: int) -> None:
    assert retry_on_conflict(conflicts(number), 3, Unavailable(ERROR)) == number + 1


def test_the_error_is_raised_after_the_last_attempt_with_the_conflict_as_cause() -> None:
    with pytest.raises(Unavailable, match=ERROR) as raised:
        retry_on_conflict(conflicts(3), 3, Unavailable(ERROR))
    assert str(raised.value.__cause__) == "conflict 3"


def test_other_errors_are_not_retried() -> None:
    attempts = count(1)

    def attempt() -> None:
        raise Unavailable(f"attempt {next(attempts)}")

    with pytest.raises(Unavailable, match="attempt 1"):
        retry_on_conflict(attempt, 3, Unavailable(ERROR))
