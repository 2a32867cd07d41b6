"""The always-on job under Dagster: a run that serves until it is told to stop, and the sensor that keeps one alive."""

# No postponed annotations here: Dagster reads the types of `context` and resources.

import threading
import time
from datetime import UTC, datetime

import dagster as dg

from analytics_defs.adapters.runtime.liveness_client import running_instance, url_of
from analytics_defs.config import run_health_in_dagster_at_load
from analytics_defs.core.monitoring.endpoint_lease import KeeperStatus, StartAttempt, stop_reason, with_heartbeat
from analytics_defs.core.monitoring.health import SchedulerStatus
from analytics_defs.defs.observability.instance_probe import DagsterInstanceProbe
from analytics_defs.defs.resources.platform import Platform, as_dagster_failures
from analytics_defs.errors import AnalyticsError

ENDPOINT_JOB, SENSOR = "observability_endpoint", "observability_endpoint_sensor"
POLL_INTERVAL_SECONDS = 2.0
DRAIN_TIMEOUT_SECONDS = 15.0


@dg.op
def serve_observability(context: dg.OpExecutionContext, platform: dg.ResourceParam[Platform]) -> None:
    """Binds first: a port that is taken is the failure of this run, by name."""
    from analytics_defs.web import server
    from analytics_defs.web.app import make_app

    with as_dagster_failures():
        settings = platform.settings()
        with server.bind_socket(settings.health_host, settings.health_port) as listener:
            site = platform.web_context(context.run.run_id, DagsterInstanceProbe(context.instance))
            running = server.ObservabilityServer(make_app(site))
            thread = threading.Thread(target=running.serve_on, args=(listener,), name="endpoint", daemon=True)
            context.log.info("listening on %s", server.format_address(listener))
            site.monitor.refresh()  # so that the first poll finds answers
            thread.start()
            try:
                why = _until_over(DagsterInstanceProbe(context.instance, SENSOR), thread)
            finally:
                running.stop()
                thread.join(DRAIN_TIMEOUT_SECONDS)
    context.log.info("ended: %s", why)


def _until_over(keeper: DagsterInstanceProbe, thread: threading.Thread) -> str:
    """Terminate, and whatever else ends a run, is raised out of the sleep."""
    signs = KeeperStatus(sensor_stopped=False, heartbeat_at=datetime.now(UTC))
    while thread.is_alive():
        signs = with_heartbeat(signs, _asked(keeper))
        if why := stop_reason(signs, datetime.now(UTC)):
            return why
        time.sleep(POLL_INTERVAL_SECONDS)
    raise dg.Failure("the server ended by itself", allow_retries=False)


def _asked(keeper: DagsterInstanceProbe) -> SchedulerStatus | None:
    """An instance that cannot be asked is no sign of life, and nothing worse."""
    try:
        return keeper.scheduler_status()
    except Exception:  # noqa: BLE001 - whatever a database raises
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
    description="Asks for a run where nobody answers /health/live, so that one always does. Stopping this sensor stops the endpoint.",
)
def observability_endpoint_sensor(context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]) -> dg.SensorResult:
    try:
        settings = platform.settings()
    except AnalyticsError as error:
        raise dg.Failure(description=str(error)) from error
    url, lease, now = url_of(settings.health_host, settings.health_port), StartAttempt.parse(context.cursor), datetime.now(UTC)
    if instance := running_instance(url):
        return dg.SensorResult(skip_reason=f"{instance} answers on {url}", cursor=str(StartAttempt()))
    ends_at = lease.ends_at()
    if ends_at and now < ends_at:
        wait = f"nobody answers on {url}; attempt {lease.attempts} has until {ends_at:%H:%M:%S} UTC"
        return dg.SensorResult(skip_reason=wait, cursor=str(lease))
    return dg.SensorResult(run_requests=[dg.RunRequest()], cursor=str(lease.with_attempt(now)))
