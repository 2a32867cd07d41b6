"""The steps of a batch, each safe to repeat by anyone at any later time. `flows.ingest` puts them in order."""

from analytics_defs.flows.ingest.close_batch import commit, must_be_closed, recommit, sweep
from analytics_defs.flows.ingest.read_batch import exact_ranges, holes_of, open_topics, pending_of, refuse_loss, same_topics
from analytics_defs.flows.ingest.stage_batch import stage
from analytics_defs.flows.ingest.write_batch import claim_and_archive

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
