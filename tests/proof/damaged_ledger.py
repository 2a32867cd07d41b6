"""A ledger whose items an operator deletes or changes behind its back."""

from __future__ import annotations

from analytics_defs.adapters.memory import MemoryLedger
from analytics_defs.core.ledger import Checkpoint
from analytics_defs.core.offsets import TopicPartition


class DamagedLedger(MemoryLedger):
    """A ledger that an operator may damage."""

    def delete_checkpoint(self, topic_partition: TopicPartition) -> None:
        self._checkpoints.pop(topic_partition, None)

    def set_checkpoint_back(self, topic_partition: TopicPartition) -> None:
        self._checkpoints[topic_partition] = Checkpoint(topic_partition, 0, 0)
