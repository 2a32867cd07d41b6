"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from analytics_defs.core.events.rejection_reasons import RejectionReason
from analytics_defs.core.storage.object_keys import batch_time, require_hour


def _validated_by(check: Callable[[str], object]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Return a click callback that calls `check` with each value and reports its ValueError as wrong usage."""

    def validate(_context: click.Context, _parameter: click.Parameter, given: Any) -> Any:
        for value in given if isinstance(given, tuple) else filter(None, [given]):
            try:
                check(value)
            except ValueError as error:
                raise click.BadParameter(str(error)) from error
        return given

    return validate


json_option = click.option("--json", "json_output", is_flag=True, help="Print JSON to stdout instead of a table.")
reason_option = click.option(
    "--reason", type=click.Choice([str(reason) for reason in RejectionReason]), help="Select records with this rejection reason."
)
batch_hour_option = click.option(
    "--batch-hour",
    metavar="YYYY-MM-DDTHH",
    callback=_validated_by(require_hour),
    help="Select records of batches that began in this UTC hour.",
)
hours_option = click.option(
    "--hour",
    "hours",
    metavar="YYYY-MM-DDTHH",
    callback=_validated_by(require_hour),
    multiple=True,
    help="Also compare the stores for this UTC hour of event time, id by id. Can be repeated.",
)
hour_arguments = click.argument("hours", metavar="HOUR...", nargs=-1, required=True, callback=_validated_by(require_hour))
batch_option = click.option("--batch", "batch_id", metavar="ID", callback=_validated_by(batch_time), help="Select records of this batch.")
