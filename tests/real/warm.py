"""Imported by the fork server, once: everything that a run's process loads, and nothing that connects."""

import boto3
import botocore.loaders
import dagster as dg
import obstore.auth.boto3
import obstore.store
import pyarrow.parquet

from analytics_defs.adapters import dynamodb_ledger, dynamodb_recent, heartbeat, kafka, object_store
from analytics_defs.definitions import defs
from analytics_defs.defs.ingest import JOB
from tests.real import doomed

LOADED = (boto3, botocore.loaders, obstore, pyarrow, dynamodb_ledger, dynamodb_recent, heartbeat, kafka, object_store, doomed)

with dg.DagsterInstance.ephemeral():
    defs.resolve_job_def(JOB)
