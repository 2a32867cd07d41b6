"""Everything that the process of a run imports. The fork server imports it once; no connection is opened."""

import boto3
import botocore.loaders
import dagster as dg
import obstore.auth.boto3
import obstore.store
import pyarrow.parquet

from analytics_defs.adapters.dynamodb import ledger, recent_events
from analytics_defs.adapters.kafka import event_log
from analytics_defs.adapters.object_store import store
from analytics_defs.adapters.runtime import lease_heartbeat
from analytics_defs.definitions import defs
from analytics_defs.defs.ingest.job import MICRO_BATCH_JOB
from tests.real import killable_run

LOADED = (boto3, botocore.loaders, obstore, pyarrow, ledger, recent_events, lease_heartbeat, event_log, store, killable_run)

with dg.DagsterInstance.ephemeral():
    defs.resolve_job_def(MICRO_BATCH_JOB)
