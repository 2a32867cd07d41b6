"""The steps of a batch, each safe to repeat by anyone at any later time. `flows.ingest` puts them in order."""

from analytics_defs.flows.steps.archiving import claim_and_archive
from analytics_defs.flows.steps.closing import commit, must_be_closed, recommit, sweep
from analytics_defs.flows.steps.reading import exact_ranges, holes_of, open_topics, pending_of, refuse_loss, same_topics
from analytics_defs.flows.steps.staging import stage

__all__ = [
    "claim_and_archive",
    "commit",
    "exact_ranges",
    "holes_of",
    "must_be_closed",
    "open_topics",
    "pending_of",
    "recommit",
    "refuse_loss",
    "same_topics",
    "stage",
    "sweep",
]
