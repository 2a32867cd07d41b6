"""Celery's Redis transport for a worker that outlives a Redis that goes away. With kombu 5.7's own, a lost connection ends it."""

from __future__ import annotations

from typing import Any

from kombu.transport import redis


class Channel(redis.Channel):
    """Does nothing over a connection that is lost: neither hands messages back when it is closed, nor acknowledges one later.

    Both are safe here. A worker holds no message beyond the runs that it executes; each of those is given out again a minute after it was
    given out, and whoever gets it leaves a run alone that began.
    """

    do_restore = False

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> Any:
        return None if self.closed else super().basic_ack(delivery_tag, multiple)  # type: ignore[no-untyped-call]

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> Any:
        return None if self.closed else super().basic_reject(delivery_tag, requeue)  # type: ignore[no-untyped-call]


class Transport(redis.Transport):
    """The same with that channel."""

    Channel = Channel
