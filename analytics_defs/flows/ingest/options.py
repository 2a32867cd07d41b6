"""Options of an ingest run."""

from __future__ import annotations

from dataclasses import dataclass, field

from analytics_defs.core.events.event import ValidationRules
from analytics_defs.core.ingest.batch_builder import BatchLimits
from analytics_defs.core.ingest.planning import OnDataLoss


@dataclass(frozen=True, slots=True)
class IngestOptions:
    """Options of one run. A staged batch no longer depends on them."""

    run_id: str
    validation_rules: ValidationRules
    limits: BatchLimits = field(default_factory=BatchLimits)
    write_event_json: bool = True
    code_version: str = ""
    on_data_loss: OnDataLoss = OnDataLoss.CONTINUE
