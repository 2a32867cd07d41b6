"""A Celery worker that executes Dagster's runs: the other end of `dagster_celery.launcher.CeleryRunLauncher`.

Every child of it has the code loaded before its first run (a fork of a process that imported it), keeps its clients from run to run, and
executes one run at a time, in itself. What is so on purpose:

- Broker, queue and Celery's settings are those of the launcher in `dagster.yaml`: one place, so that both ends agree.
- A message is acknowledged when its run has ended (`task_acks_late`), and is given out again a minute after it was given out
  (`visibility_timeout`): a run whose worker died before it began is so begun by another. Whoever gets the message of a run that began
  leaves it alone. A lane's run that stopped in the middle is for the sensor to find, by its lease.
- A run whose child was killed is not given out again (no `task_reject_on_worker_lost`): it would be left alone as well, and called a
  success. It counts as failed in Celery, where Dagster's run monitoring finds it.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import socket
import time
from typing import TYPE_CHECKING, Any

import dagster as dg
from celery import Celery, Task
from celery.exceptions import Ignore, Reject
from celery.signals import worker_process_init
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import unpack_value
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.make_app import make_app
from dagster_celery.tasks import create_execute_job_task

from analytics_defs.errors import SettingsError
from analytics_defs.wiring import code_digest

if TYPE_CHECKING:
    from types import FrameType

MAX_RUNS_PER_CHILD = 500
"""Then a child is replaced by a new fork, which costs nothing: whatever leaks, leaks for an hour at most."""
MAX_CHILD_MEMORY_KIB = 768 * 1024
"""A child that has grown beyond this is replaced after its run: sorting an hour takes that much, and gives little back."""
SHUTDOWN_GRACE_SECONDS = 10.0
"""What runs get to end by themselves when a worker is told to end at once (SIGQUIT, or SIGINT twice)."""
STORAGE_PAUSE_SECONDS = 5.0
"""Before a run is handed back because Dagster's storage does not answer."""
PRELOADED = (
    "analytics_defs.definitions",
    *(f"analytics_defs.adapters.{name}" for name in ("dynamodb_ledger", "dynamodb_recent", "heartbeat", "kafka", "object_store")),
    *("boto3", "botocore.loaders", "obstore.auth.boto3", "obstore.store", "pyarrow.parquet"),
)
"""What a micro-batch imports. Importing opens no connection and starts no thread: neither would survive the fork."""
_log = logging.getLogger(__name__)
_WAITS = (dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING)


def run_worker(name: str, slots: int) -> None:
    """Executes runs, `slots` at a time, until SIGTERM or SIGINT and the end of those under way.

    Raises SettingsError where the instance of DAGSTER_HOME starts its runs without Celery.
    """
    app = worker_app()
    for module in PRELOADED:
        importlib.import_module(module)
    worker_process_init.connect(_end_runs_as_dagster_does)
    app.worker_main(["worker", "--pool=prefork", f"--concurrency={slots}", f"--hostname={name}@%h", "--loglevel=INFO"])


def worker_app() -> Celery:
    """Celery as the instance's launcher has it, with the task that executes a run. Raises SettingsError."""
    with dg.DagsterInstance.get() as instance:
        launcher = instance.run_launcher
        if not isinstance(launcher, CeleryRunLauncher):
            raise SettingsError(
                f"the Dagster instance of DAGSTER_HOME ({instance.root_directory}) starts its runs by {type(launcher).__name__}: none "
                "would ever reach this worker. Expected dagster_celery.launcher.CeleryRunLauncher, as in deploy/celery/dagster.yaml "
                "(with docker compose: COMPOSE_PROFILES=celery, which the other services see, and not --profile alone)"
            )
        app: Celery = make_app(app_args=launcher.app_args())  # type: ignore[no-untyped-call]
    app.conf.update(
        worker_max_tasks_per_child=MAX_RUNS_PER_CHILD,
        worker_max_memory_per_child=MAX_CHILD_MEMORY_KIB,
        worker_soft_shutdown_timeout=SHUTDOWN_GRACE_SECONDS,
        # Dagster captures what a run prints by the files of stdout and stderr, which Celery's own stand-ins do not have.
        worker_redirect_stdouts=False,
        worker_hijack_root_logger=False,
    )
    if (launcher.broker or "").startswith(("redis://", "rediss://")):
        app.conf.broker_transport = "analytics_defs.defs.runtime.redis_transport:Transport"
    create_execute_job_task(app, base=RunTask, shared=False)  # type: ignore[arg-type] # its annotation names the type of each option
    return app


class RunTask(Task):  # type: ignore[misc]
    """Executes one run, unless it began before; and says so to Dagster where it cannot even begin."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        run_id = unpack_value(kwargs["execute_job_args_packed"], as_type=ExecuteRunArgs).run_id
        try:
            if self.request.delivery_info.get("redelivered"):
                _leave_alone_what_began(run_id)
            return super().__call__(*args, **kwargs)
        except Ignore:
            raise
        except Exception as fault:
            _report(run_id, fault)
            raise


def _leave_alone_what_began(run_id: str) -> None:
    """Raises Ignore, which keeps what Celery knows of the first delivery: a SUCCESS here would hide that its child was killed."""
    with dg.DagsterInstance.get() as instance:
        run = instance.get_run_by_id(run_id)
        if run is None or run.status not in _WAITS:
            raise Ignore(f"run {run_id} was delivered again, and is {run.status.value if run else 'deleted'}: left alone")


def _report(run_id: str, fault: Exception) -> None:
    """The run as failed. Raises Reject, which hands it to the next worker, where Dagster's storage does not answer."""
    try:
        with dg.DagsterInstance.get() as instance:
            run = instance.get_run_by_id(run_id)
            if run is None:
                _log.error(
                    "Run %s is not in this worker's Dagster storage: does another platform use the same Redis? Give each its own.", run_id
                )
            elif not run.is_finished:
                where = f"The Celery worker on {socket.gethostname()} (code {code_digest()})"
                instance.report_run_failed(run, f"{where} could not execute this run. {type(fault).__name__}: {fault}")
    except Exception as unreachable:  # noqa: BLE001 - SQLAlchemy's, psycopg2's, Dagster's: each of them means that
        time.sleep(STORAGE_PAUSE_SECONDS)
        raise Reject(f"Dagster's storage does not answer: {unreachable}", requeue=True) from fault


def _end_runs_as_dagster_does(**_: object) -> None:
    """In each child: SIGTERM, which is how Terminate reaches it, ends its run as canceled, and not its process in the middle of the run."""
    signal.signal(signal.SIGTERM, _pass_on)


def _pass_on(number: int, _frame: FrameType | None) -> None:
    """Dagster listens to SIGINT while a run executes; between runs Celery has it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    else:
        os.kill(os.getpid(), signal.SIGINT)
