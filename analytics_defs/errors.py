"""Every error this package raises on purpose.

    AnalyticsError                  where / expected / found / what to do, in one message
    ├── SettingsError               settings are wrong: all of them are named at once
    ├── Unavailable    (retryable)  a store or broker is down, slow, throttling, or answered nonsense
    │   └── TooSmall                this machine's memory or disk do not do for one hour
    ├── Denied                      credentials or permissions: 401, 403, ACLs. Never a reason to drop
    ├── Missing                     a topic, table or bucket that should be there is not
    ├── Stopped                     one partition must not go on before a person decided
    │   ├── TopicRecreated          the topic was deleted and created again, or its log was cut
    │   ├── DataLoss                retention passed the next offset and ON_DATA_LOSS=stop
    │   ├── Unreadable              a record batch in Kafka is damaged: the partition ends there until a person decided
    │   └── Contradiction           stores and ledger disagree in a way no crash explains
    ├── GroupInUse                  another consumer is a member of the group: its offsets cannot be set
    ├── TakenOver      (retryable)  another executor closed or took what this one worked on; nothing was changed here
    ├── Frozen                      retention has taken what this needs: it is refused whole, and what is left stays
    ├── NotFound                    what a person asked for is not there
    └── CannotStart                 a local server or the development stack could not be started

A bad record is never an error: it is a value, see `core.events.event.Rejection`.
"""

from __future__ import annotations


class AnalyticsError(Exception):
    """Base of all errors of this package. `retryable`: the same request may succeed later without anybody's help."""

    retryable = False


class SettingsError(AnalyticsError):
    """One or more settings are wrong. The message has one line for each: name, value (never a secret's), what is allowed."""


class Unavailable(AnalyticsError):
    """A store or broker did not answer, throttled, or failed by itself, after the client's bounded retries."""

    retryable = True


class InsufficientResources(Unavailable):
    """Memory or disk of this machine ended while one hour was sorted or counted. Others may fit, and so may this one elsewhere."""


class AccessDenied(AnalyticsError):
    """A store or broker refused the credentials or the permission."""


class ResourceMissing(AnalyticsError):
    """A topic, table or bucket does not exist, or has another shape. `analytics setup` creates what is missing."""


class PartitionHalted(AnalyticsError):
    """One partition stops until a person decides; the others go on. The message says how to go on."""


class TopicRecreated(PartitionHalted):
    """The topic is not the one the ledger knows: its id changed, or its end lies before the next offset to read."""


class DataLoss(PartitionHalted):
    """Retention removed records before they were read, and `ON_DATA_LOSS=stop`."""


class CorruptRecordBatch(PartitionHalted):
    """A record batch in Kafka is damaged: its checksum, or its compression, does not fit its bytes."""


class InconsistentState(PartitionHalted):
    """Ledger, staging file and stores contradict each other in a way that no crash of ours can produce."""


class ConsumerGroupActive(AnalyticsError):
    """The broker takes a group's offsets from its members alone while it has any. The ledger has the progress; nothing is lost."""


class Superseded(AnalyticsError):
    """Another executor was first. Nothing was changed by this one."""

    retryable = True


class DataExpired(AnalyticsError):
    """Retention has taken what was asked for, as its settings say. Nothing was changed, and nothing is wrong with what is left."""


class NotFound(AnalyticsError):
    """A person asked for something that is not there."""


class StartupFailed(AnalyticsError):
    """A local server or the development stack could not be started. Nothing that was started for it is left running."""
