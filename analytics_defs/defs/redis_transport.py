"""Celery's Redis transport for a worker that outlives a Redis that goes away."""

from __future__ import annotations

from kombu.transport import redis


class Channel(redis.Channel):  # type: ignore[misc]
    """Hands nothing back when it is closed: kombu 5.7 does so over the connection that was just lost, and that ends the worker.

    A worker holds no message beyond the runs that it executes, and those are given out again a minute after they were given out.
    """

    do_restore = False


class Transport(redis.Transport):  # type: ignore[misc]
    """The same with that channel."""

    Channel = Channel
