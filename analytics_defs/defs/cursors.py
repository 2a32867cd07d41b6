"""Cursors of sensors, which an operator can overwrite in the UI."""

from collections.abc import Callable
from typing import TypeVar

import dagster as dg

_T = TypeVar("_T")


def parse_cursor(context: dg.SensorEvaluationContext, parse: Callable[[str | None], _T]) -> _T:
    """Return the parsed cursor of the sensor. A text that the sensor did not write counts as lost, with a warning in its log."""
    try:
        return parse(context.cursor)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        context.log.warning(
            "the cursor %.100r is not one that this sensor wrote and counts as lost (%s: %s)", context.cursor, type(error).__name__, error
        )
        return parse(None)
