"""Memory doubles of every port, for one process. They pass the same contract tests as the real adapters.

A test can put in records, aborted transactions, retention and recreated topics, and can inspect what the flows stored.
"""

from analytics_defs.adapters.memory.event_log import Marker, MemoryEventLog
from analytics_defs.adapters.memory.ledger import MemoryLedger
from analytics_defs.adapters.memory.runtime import InlineTaskPool, ManualClock
from analytics_defs.adapters.memory.stores import MemoryObjectStore, MemoryRecentEvents

__all__ = ["InlineTaskPool", "ManualClock", "Marker", "MemoryEventLog", "MemoryLedger", "MemoryObjectStore", "MemoryRecentEvents"]
