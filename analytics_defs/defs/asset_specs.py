"""Assets that others write, or that ingest writes as a by-product: topics, and the archive's parts by hour."""

from collections.abc import Mapping, Sequence

import dagster as dg

from analytics_defs.config import archive_start_at_load, topics_at_load
from analytics_defs.core.ingest.planning import Lag
from analytics_defs.defs.display import ROWS_SCHEMA

HOURS = dg.HourlyPartitionsDefinition(start_date=archive_start_at_load(), timezone="UTC", fmt="%Y-%m-%dT%H", end_offset=25)
"""Hours of the archive. Clocks of producers may run a day ahead: MAX_FUTURE_SKEW is 24 h."""


def topic_key(topic: str) -> dg.AssetKey:
    return dg.AssetKey(["kafka", "".join(letter if letter.isalnum() else "_" for letter in topic)])


topic_assets = [
    dg.AssetSpec(
        topic_key(topic),
        description=f"Kafka topic `{topic}`. Its lag is observed by the sensor kafka_micro_batches, at most once a minute.",
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
    partitions_def=HOURS,
    metadata={"dagster/column_schema": ROWS_SCHEMA},
)


def lag_observations(lags: Sequence[Lag]) -> list[dg.AssetObservation]:
    """One for each topic: numbers that plot, and a table by partition."""
    by_topic: dict[str, list[Lag]] = {}
    for lag in lags:
        by_topic.setdefault(lag.topic_partition.topic, []).append(lag)
    return [dg.AssetObservation(topic_key(topic), metadata=_lag_metadata(each)) for topic, each in by_topic.items()]


def _lag_metadata(lags: Sequence[Lag]) -> Mapping[str, dg.MetadataValue]:
    return {
        "lag": dg.MetadataValue.int(sum(lag.offsets for lag in lags)),
        "behind open transactions": dg.MetadataValue.int(sum(lag.held_back for lag in lags)),
        "next offsets": dg.MetadataValue.int(sum(lag.next for lag in lags)),
        "partitions": dg.MetadataValue.table(
            [
                dg.TableRecord(
                    {
                        "partition": str(lag.topic_partition),
                        "next": lag.next,
                        "high watermark": lag.high,
                        "lag": lag.offsets,
                        "group offset": "none" if lag.committed is None else str(lag.committed),
                    }
                )
                for lag in lags
            ]
        ),
    }
