"""All errors that leave a flow or an adapter. The message says where, what was expected, what was found, and what to do.

    AnalyticsError                       base of all
    ├── SettingsError                    a setting is wrong; the message lists every wrong one
    ├── Unavailable         (retryable)  a store or broker is down, slow, throttling, or gave an invalid answer
    │   └── InsufficientResources        this machine has too little memory or disk for the hour it works on
    ├── AccessDenied                     a store or broker rejected the credentials or the permissions
    ├── ResourceNotReady                 a topic, table or bucket does not exist, is still being created, or has the wrong shape
    ├── PartitionHalted                  one partition stops until an operator decides; the others continue
    │   ├── TopicRecreated               the topic was deleted and created again, or its log was truncated
    │   ├── DataLoss                     Kafka removed records before they were read, and ON_DATA_LOSS=stop
    │   ├── CorruptRecordBatch           Kafka holds a damaged record batch
    │   └── InconsistentState            ledger, staging file and stores contradict each other
    ├── ConsumerGroupActive              another consumer is a member of the group
    ├── Superseded          (retryable)  another executor finished the same work first
    ├── DataExpired                      retention removed the requested data
    ├── NotFound                         the requested batch, file or topic does not exist
    └── StartupFailed                    a local server or the development stack did not start

A bad record is a value and never an error: see `core.events.event.Rejection`.
"""

from __future__ import annotations


class AnalyticsError(Exception):
    """Base of all errors of this package."""

    retryable = False
    """True: the same request may succeed later without any change by the operator."""


class SettingsError(AnalyticsError):
    """Raised while settings are read, before anything connects.

    The message has one line for each wrong setting: its name, its value (never a secret), and what is allowed.
    The operator corrects the environment and starts again.
    """


class Unavailable(AnalyticsError):
    """Raised when a store or broker does not answer, throttles, or fails, after the client's bounded retries.

    It is unknown whether the request took effect; every request is idempotent. Runs retry with backoff.
    The operator checks the store only if the error persists.
    """

    retryable = True


class InsufficientResources(Unavailable):
    """Raised when memory or disk runs out while the rows of one hour are sorted or counted.

    Other hours may be small enough, and so may this hour on a larger machine. The operator raises
    DUCKDB_MEMORY_LIMIT_MB or frees disk space under TMPDIR.
    """


class AccessDenied(AnalyticsError):
    """Raised when a store or broker rejects the credentials or the permission (401, 403, Kafka ACLs).

    No data is dropped because of it. The operator corrects the credentials or the policy.
    """


class ResourceNotReady(AnalyticsError):
    """Raised when a topic, table or bucket does not exist, is still being created, or has another shape than expected.

    The operator runs `analytics setup`, which creates what is missing. If the shape differs, the operator names another
    table or topic, or deletes this one.
    """


class PartitionHalted(AnalyticsError):
    """Raised when one partition must not continue without a decision. The other partitions continue.

    The message says which decision the operator has to make, and how.
    """


class TopicRecreated(PartitionHalted):
    """Raised when Kafka's topic is not the one in the ledger.

    Either its topic id changed, or its log ends before the next offset to read.
    The operator runs `analytics accept-recreated-topic`, or corrects KAFKA_BROKERS.
    """


class DataLoss(PartitionHalted):
    """Raised when Kafka's retention removed records before they were read, and `ON_DATA_LOSS=stop`.

    The operator sets `ON_DATA_LOSS=continue` to record the exact range as lost and continue behind it.
    """


class CorruptRecordBatch(PartitionHalted):
    """Raised when the checksum or the compression of a record batch in Kafka does not match its bytes.

    The records before it were read. The operator restores the log segment, lets another replica lead,
    or deletes the records up to the next intact batch.
    """


class InconsistentState(PartitionHalted):
    """Raised when ledger, staging file and stores contradict each other in a way that no crash explains.

    It halts a partition only if planning or a batch raised it.

    The message names the object or item. The operator restores it from versions or a backup.
    """


class ConsumerGroupActive(AnalyticsError):
    """Raised when another consumer is a member of the group: the broker then rejects offsets from non-members.

    The ledger has the progress, so nothing is lost. The operator stops that consumer or changes KAFKA_GROUP_ID.
    """


class Superseded(AnalyticsError):
    """Raised when another executor took over or changed the data first. The refused step changed nothing.

    Steps that were completed before it stay. The operator does nothing, or repeats the command.
    """

    retryable = True


class DataExpired(AnalyticsError):
    """Raised when retention removed data that the request needs. The whole request is refused and nothing was changed.

    What is left is intact. The operator chooses hours or batches that are not expired.
    """


class NotFound(AnalyticsError):
    """Raised when the requested batch, file, topic or offset does not exist, or a topic to accept was not recreated."""


class StartupFailed(AnalyticsError):
    """Raised when a local server or the development stack does not start.

    Servers that were already started with it are stopped. If a server failed, the message ends with its log.
    """
