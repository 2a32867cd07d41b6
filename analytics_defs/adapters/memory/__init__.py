"""Doubles of every port, in memory: one process, no time passing, the same contracts as the real adapters.

They hold what a test puts in (records, aborted transactions, retention, a topic created again) and show what the flows left behind.
"""

from analytics_defs.adapters.memory.event_log import Marker, MemoryLog
from analytics_defs.adapters.memory.ledger import MemoryLedger
from analytics_defs.adapters.memory.runtime import InlineWorkers, ManualClock
from analytics_defs.adapters.memory.stores import MemoryArchive, MemoryRecentEvents

__all__ = ["InlineWorkers", "ManualClock", "Marker", "MemoryArchive", "MemoryLedger", "MemoryLog", "MemoryRecentEvents"]
