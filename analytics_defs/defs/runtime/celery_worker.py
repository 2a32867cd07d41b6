"""A Celery worker that executes Dagster runs: the counterpart of `dagster_celery.launcher.CeleryRunLauncher`.

Each child process is forked from a process that has imported the code. It keeps its clients from run to run and executes one run at a
time, in process. Decisions:

- Broker, queue and Celery settings are those of the launcher in `dagster.yaml`, so that both ends agree.
- A message is acknowledged when its run has ended (`task_acks_late`). Redis delivers it again after `visibility_timeout`, one minute.
  So another worker begins a run whose worker died before it began. A worker ignores a redelivered run that has begun. The sensor finds
  a micro-batch that stopped in the middle by its lease.
- If a child process is killed, its run is not redelivered (no `task_reject_on_worker_lost`): a redelivered run is ignored and would be
  reported as successful. It counts as failed in Celery, where Dagster's run monitoring finds it.
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
"""Runs after which a new fork replaces the child. A fork is cheap, and it bounds memory leaks to about an hour."""
MAX_CHILD_MEMORY_KIB = 768 * 1024
"""Resident memory above which a new fork replaces the child after its run. Sorting an hour needs that much and frees little of it."""
SHUTDOWN_GRACE_SECONDS = 10.0
"""Time that runs have to end after SIGQUIT, or after a second SIGINT."""
STORAGE_PAUSE_SECONDS = 5.0
"""Pause before a run is returned to the queue because Dagster's storage is unavailable."""
PRELOADED = (
    "analytics_defs.definitions",
    *(f"analytics_defs.adapters.dynamodb.{name}" for name in ("ledger", "recent_events")),
    *(f"analytics_defs.adapters.{name}" for name in ("kafka.event_log", "object_store.store", "runtime.lease_heartbeat")),
    *("boto3", "botocore.loaders", "obstore.auth.boto3", "obstore.store", "pyarrow.parquet"),
)
"""The imports of a micro-batch. They open no connection and start no thread, because neither would survive the fork."""
_log = logging.getLogger(__name__)
_NOT_BEGUN = (dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING)


def run_worker(name: str, slots: int) -> None:
    """Execute runs, `slots` at a time. After SIGTERM or SIGINT, return when the active runs have ended.

    Raise SettingsError if the instance of DAGSTER_HOME does not start its runs through Celery.
    """
    app = worker_app()
    for module in PRELOADED:
        importlib.import_module(module)
    worker_process_init.connect(_handle_sigterm)
    app.worker_main(["worker", "--pool=prefork", f"--concurrency={slots}", f"--hostname={name}@%h", "--loglevel=INFO"])


def worker_app() -> Celery:
    """Return the Celery app of the instance's launcher, with the task that executes a run.

    Raise SettingsError if the launcher is another one.
    """
    with dg.DagsterInstance.get() as instance:
        launcher = instance.run_launcher
        if not isinstance(launcher, CeleryRunLauncher):
            raise SettingsError(
                f"the Dagster instance of DAGSTER_HOME ({instance.root_directory}) starts its runs by {type(launcher).__name__}, so this "
                "worker would never receive a run. Expected dagster_celery.launcher.CeleryRunLauncher, as in deploy/celery/dagster.yaml "
                "(with docker compose: set COMPOSE_PROFILES=celery, which the other services read, instead of --profile alone)"
            )
        app: Celery = make_app(app_args=launcher.app_args())  # type: ignore[no-untyped-call]
    app.conf.update(
        worker_max_tasks_per_child=MAX_RUNS_PER_CHILD,
        worker_max_memory_per_child=MAX_CHILD_MEMORY_KIB,
        worker_soft_shutdown_timeout=SHUTDOWN_GRACE_SECONDS,
        # Dagster captures the output of a run from the file descriptors of stdout and stderr. Celery's replacements have none.
        worker_redirect_stdouts=False,
        worker_hijack_root_logger=False,
    )
    if (launcher.broker or "").startswith(("redis://", "rediss://")):
        app.conf.broker_transport = "analytics_defs.defs.runtime.redis_transport:Transport"
    create_execute_job_task(app, base=RunTask, shared=False)  # type: ignore[arg-type] # the annotation names the type of one option
    return app


class RunTask(Task):  # type: ignore[misc]
    """The task that executes one run. It ignores a redelivered run that has begun, and reports a run that cannot begin as failed."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        run_id = unpack_value(kwargs["execute_job_args_packed"], as_type=ExecuteRunArgs).run_id
        try:
            if self.request.delivery_info.get("redelivered"):
                _require_not_begun(run_id)
            return super().__call__(*args, **kwargs)
        except Ignore:
            raise
        except Exception as error:
            _report_failed(run_id, error)
            raise


def _require_not_begun(run_id: str) -> None:
    """Raise Ignore if a redelivered run has begun, so that Celery keeps the result of the first delivery.

    A SUCCESS of the second delivery would hide that the child process was killed.
    """
    with dg.DagsterInstance.get() as instance:
        run = instance.get_run_by_id(run_id)
        if run is None or run.status not in _NOT_BEGUN:
            raise Ignore(f"run {run_id} was delivered again, and its status is {run.status.value if run else 'deleted'}: ignored")


def _report_failed(run_id: str, error: Exception) -> None:
    """Report the run as failed. Raise Reject, which returns it to the queue, if Dagster's storage is unavailable."""
    try:
        with dg.DagsterInstance.get() as instance:
            run = instance.get_run_by_id(run_id)
            if run is None:
                _log.error(
                    "Run %s is not in this worker's Dagster storage: does another platform use the same Redis? "
                    "Give each platform its own Redis.",
                    run_id,
                )
            elif not run.is_finished:
                worker = f"The Celery worker on {socket.gethostname()} (code {code_digest()})"
                instance.report_run_failed(run, f"{worker} could not execute this run. {type(error).__name__}: {error}")
    except Exception as storage_error:  # noqa: BLE001 - SQLAlchemy, psycopg2 and Dagster each raise errors of their own
        time.sleep(STORAGE_PAUSE_SECONDS)
        raise Reject(f"Dagster's storage does not answer: {storage_error}", requeue=True) from error


def _handle_sigterm(**_: object) -> None:
    """Install the SIGTERM handler of a child process. Terminate sends SIGTERM, which would kill the process in the middle of a run."""
    signal.signal(signal.SIGTERM, _cancel_run_or_exit)


def _cancel_run_or_exit(number: int, _frame: FrameType | None) -> None:
    """Send SIGINT, by which Dagster cancels the run, or exit between two runs. Celery ignores SIGINT between runs."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    else:
        os.kill(os.getpid(), signal.SIGINT)
