"""Doubles of every port, in memory: one process, no time passing, the same contracts as the real adapters.

They hold what a test puts in (records, aborted transactions, retention, a topic created again) and show what the flows left behind.
"""

from analytics_defs.adapters.memory.event_log import Marker, MemoryEventLog
from analytics_defs.adapters.memory.ledger import MemoryLedger
from analytics_defs.adapters.memory.runtime import InlineTaskPool, ManualClock
from analytics_defs.adapters.memory.stores import MemoryObjectStore, MemoryRecentEvents

__all__ = ["InlineTaskPool", "ManualClock", "Marker", "MemoryEventLog", "MemoryLedger", "MemoryObjectStore", "MemoryRecentEvents"]
