"""Assets that no op of this code location materializes: the topics, and the Parquet parts of each hour."""

from collections.abc import Mapping, Sequence

import dagster as dg

from analytics_defs.config import partitions_start_at_load, topics_at_load
from analytics_defs.core.ingest.planning import PartitionLag
from analytics_defs.defs.display import ROWS_SCHEMA

HOURLY_PARTITIONS = dg.HourlyPartitionsDefinition(start_date=partitions_start_at_load(), timezone="UTC", fmt="%Y-%m-%dT%H", end_offset=25)
"""Event hours. They end 25 hours from now, because clocks of producers may be a day ahead: MAX_FUTURE_SKEW is 24 h."""


def topic_asset_key(topic: str) -> dg.AssetKey:
    return dg.AssetKey(["kafka", "".join(letter if letter.isalnum() else "_" for letter in topic)])


topic_assets = [
    dg.AssetSpec(
        topic_asset_key(topic),
        description=f"Kafka topic `{topic}`. The sensor kafka_micro_batches observes its lag every 5 minutes.",
        kinds={"kafka"},
        group_name="kafka",
        owners=["team:analytics"],
    )
    for topic in topics_at_load()
]

event_parts = dg.AssetSpec(
    "event_parts",
    deps=["recent_events"],
    description="Parquet parts of an hour, one for each batch that stored events of it. Reported by the sensor from the ledger.",
    kinds={"s3", "parquet"},
    group_name="ingest",
    owners=["team:analytics"],
    partitions_def=HOURLY_PARTITIONS,
    metadata={"dagster/column_schema": ROWS_SCHEMA},
)


def lag_observations(lags: Sequence[PartitionLag]) -> list[dg.AssetObservation]:
    """Return one observation for each topic: numbers that Dagster plots, and a table by partition."""
    by_topic: dict[str, list[PartitionLag]] = {}
    for lag in lags:
        by_topic.setdefault(lag.topic_partition.topic, []).append(lag)
    return [dg.AssetObservation(topic_asset_key(topic), metadata=_lag_metadata(topic_lags)) for topic, topic_lags in by_topic.items()]


def _lag_metadata(lags: Sequence[PartitionLag]) -> Mapping[str, dg.MetadataValue]:
    return {
        "lag": dg.MetadataValue.int(sum(lag.offsets for lag in lags)),
        "behind open transactions": dg.MetadataValue.int(sum(lag.transaction_lag for lag in lags)),
        "next offsets": dg.MetadataValue.int(sum(lag.next_offset for lag in lags)),
        "partitions": dg.MetadataValue.table(
            [
                dg.TableRecord(
                    {
                        "partition": str(lag.topic_partition),
                        "next": lag.next_offset,
                        "high watermark": lag.high_watermark,
                        "lag": lag.offsets,
                        "group offset": "none" if lag.committed is None else str(lag.committed),
                    }
                )
                for lag in lags
            ]
        ),
    }
