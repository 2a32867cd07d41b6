"""Celery's Redis transport for a worker that survives an outage of Redis. With kombu 5.7's own, a lost connection ends the worker."""

from __future__ import annotations

from typing import Any

from kombu.transport import redis


class Channel(redis.Channel):
    """A channel that does nothing over a lost connection: it neither restores messages when it is closed, nor acknowledges later.

    Both are safe here. A worker holds no message beyond the runs that it executes. Redis delivers each of those again after
    `visibility_timeout`, and a worker ignores a redelivered run that has begun.
    """

    do_restore = False

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> Any:
        return None if self.closed else super().basic_ack(delivery_tag, multiple)  # type: ignore[no-untyped-call]

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> Any:
        return None if self.closed else super().basic_reject(delivery_tag, requeue)  # type: ignore[no-untyped-call]


class Transport(redis.Transport):
    """The Redis transport with that channel."""

    Channel = Channel
