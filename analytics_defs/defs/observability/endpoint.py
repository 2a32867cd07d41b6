"""The always-on job under Dagster: a run that serves the endpoint until it is stopped, and the sensor that keeps one such run."""

# No postponed annotations here: Dagster reads the types of `context` and resources.

import threading
import time
from datetime import UTC, datetime

import dagster as dg

from analytics_defs.adapters.runtime.liveness_client import running_instance, url_of
from analytics_defs.config import run_health_in_dagster_at_load
from analytics_defs.core.monitoring.endpoint_run import StartAttempt, SupervisionStatus, stop_reason, with_heartbeat
from analytics_defs.core.monitoring.health import SchedulerStatus
from analytics_defs.defs.cursors import parse_cursor
from analytics_defs.defs.observability.instance_probe import DagsterInstanceProbe
from analytics_defs.defs.resources.platform import Platform, as_dagster_failures
from analytics_defs.errors import AnalyticsError

ENDPOINT_JOB, SENSOR = "observability_endpoint", "observability_endpoint_sensor"
POLL_INTERVAL_SECONDS = 2.0
DRAIN_TIMEOUT_SECONDS = 15.0


@dg.op
def serve_observability(context: dg.OpExecutionContext, platform: dg.ResourceParam[Platform]) -> None:
    """Serve the endpoint. The run fails at once, and names the port, if another process listens on it."""
    from analytics_defs.web import server
    from analytics_defs.web.app import make_app

    with as_dagster_failures():
        settings = platform.settings()
        with server.bind_socket(settings.health_host, settings.health_port) as listener:
            web_context = platform.web_context(context.run.run_id, DagsterInstanceProbe(context.instance))
            web_server = server.HealthServer(make_app(web_context))
            thread = threading.Thread(target=web_server.serve_on, args=(listener,), name="endpoint", daemon=True)
            context.log.info("listening on %s", server.format_address(listener))
            web_context.monitor.refresh()  # so that the first request gets a result
            thread.start()
            try:
                reason = _wait_for_stop(DagsterInstanceProbe(context.instance, SENSOR), thread)
            finally:
                web_server.stop()
                thread.join(DRAIN_TIMEOUT_SECONDS)
    context.log.info("stopped: %s", reason)


def _wait_for_stop(keeper: DagsterInstanceProbe, thread: threading.Thread) -> str:
    """Return the reason to stop. Terminate raises out of the sleep."""
    status = SupervisionStatus(sensor_stopped=False, heartbeat_at=datetime.now(UTC))
    while thread.is_alive():
        status = with_heartbeat(status, _scheduler_status(keeper))
        if reason := stop_reason(status, datetime.now(UTC)):
            return reason
        time.sleep(POLL_INTERVAL_SECONDS)
    raise dg.Failure("the server stopped unexpectedly", allow_retries=False)


def _scheduler_status(keeper: DagsterInstanceProbe) -> SchedulerStatus | None:
    """Return None, which counts as a missing heartbeat, if Dagster's storage is unavailable."""
    try:
        return keeper.scheduler_status()
    except Exception:  # noqa: BLE001 - each storage driver has errors of its own
        return None


@dg.job(
    name=ENDPOINT_JOB,
    executor_def=dg.in_process_executor,
    tags={"dagster/max_runtime": "0", "dagster/max_retries": "0"},
    description="Health, metrics, traces and the status page on HEALTH_PORT, until its sensor is stopped. Terminate restarts it.",
)
def observability_endpoint() -> None:
    serve_observability()


@dg.sensor(
    name=SENSOR,
    job_name=ENDPOINT_JOB,
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING if run_health_in_dagster_at_load() else dg.DefaultSensorStatus.STOPPED,
    description="Requests a run if no process answers /health/live. Stopping this sensor stops the endpoint.",
)
def observability_endpoint_sensor(context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]) -> dg.SensorResult:
    try:
        settings = platform.settings()
    except AnalyticsError as error:
        raise dg.Failure(description=str(error)) from error
    url, attempt, now = url_of(settings.health_host, settings.health_port), parse_cursor(context, StartAttempt.parse), datetime.now(UTC)
    if instance := running_instance(url):
        return dg.SensorResult(skip_reason=f"{instance} answers on {url}", cursor=str(StartAttempt()))
    ends_at = attempt.ends_at()
    if ends_at and now < ends_at:
        wait = f"no process answers on {url}; attempt {attempt.attempts} has until {ends_at:%H:%M:%S} UTC"
        return dg.SensorResult(skip_reason=wait, cursor=str(attempt))
    return dg.SensorResult(run_requests=[dg.RunRequest()], cursor=str(attempt.with_attempt(now)))
