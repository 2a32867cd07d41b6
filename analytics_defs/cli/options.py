"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from analytics_defs.core.events.rejection_reasons import RejectionReason
from analytics_defs.core.storage.object_keys import batch_time, hour_path


def _checked(check: Callable[[str], object]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Values that a function of the core accepts: it raises ValueError, in words, for what it does not."""

    def look(_context: click.Context, _parameter: click.Parameter, given: Any) -> Any:
        for value in given if isinstance(given, tuple) else filter(None, [given]):
            try:
                check(value)
            except ValueError as fault:
                raise click.BadParameter(str(fault)) from fault
        return given

    return look


json_option = click.option("--json", "json_wanted", is_flag=True, help="Answer as JSON on stdout.")
reason_option = click.option(
    "--reason", type=click.Choice([str(each) for each in RejectionReason]), help="Only those rejected for this reason."
)
hour_option = click.option(
    "--hour",
    metavar="YYYY-MM-DDTHH",
    callback=_checked(hour_path),
    help="Only those of batches whose own time lies in this UTC hour.",
)
hours_option = click.option(
    "--hour",
    "hours",
    metavar="YYYY-MM-DDTHH",
    callback=_checked(hour_path),
    multiple=True,
    help="Also compare the stores for this hour (UTC, of the events), id by id. May be repeated.",
)
hour_arguments = click.argument("hours", metavar="HOUR...", nargs=-1, required=True, callback=_checked(hour_path))
batch_option = click.option("--batch", "batch_id", metavar="ID", callback=_checked(batch_time), help="Only those of this batch.")
