"""SIGKILL of the process of a run before, within and after every step of a batch. After recovery the stores are compared byte for byte."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from analytics_defs.core.storage.object_keys import TAR_PROBE
from analytics_defs.flows.setup.platform_identity import register_stores
from tests.real import killable_run, raw_clients
from tests.real.killable_run import Boundary, RunSpec
from tests.real.proxy import Exchange, http_proxy, pass_through
from tests.real.scene import Scene, last_hours, prepared

pytestmark = pytest.mark.real

CALLS = [
    ("ledger.open_topic", 1),
    ("ledger.open_topic", 2),
    ("event_log.read", 1),
    ("event_log.explain_gaps", 1),
    ("ledger.begin_batch", 1),
    ("object_store.put_if_absent", 1),
    ("ledger.mark_staged", 1),
    ("recent_events.claim", 1),
    ("recent_events.claim", 2),
    ("recent_events.claim", 4),
    ("object_store.put events", 1),
    ("object_store.put events", 3),
    ("object_store.put parquet", 1),
    ("object_store.put parquet", 2),
    ("object_store.put dead-letters", 1),
    ("object_store.put duplicates", 1),
    ("ledger.close_batch", 1),
    ("event_log.commit", 1),
    ("object_store.delete staging", 1),
    # the second batch
    ("ledger.begin_batch", 2),
    ("recent_events.claim", 5),
    ("ledger.close_batch", 2),
    ("object_store.delete staging", 2),
]
BOUNDARIES = [
    *(Boundary(call, number, "before") for call, number in CALLS),
    *(Boundary(call, number, "after") for call, number in CALLS),
    *(Boundary(call, number, "within") for call in ("recent_events.claim", "object_store.put events") for number in (1, 3)),
]
RETRY_RUN_ID = "00000000-0000-4000-8000-000000000002"


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with prepared() as scene:
        yield scene


@pytest.fixture(scope="module")
def young_events() -> Iterator[Scene]:
    with prepared(last_hours()) as scene:
        yield scene


def run_until_killed(spec: RunSpec) -> None:
    """Launch the run, and fail unless it kills itself at its boundary."""
    with killable_run.launched(spec) as process:
        process.join(60)
        assert process.exitcode == -signal.SIGKILL, spec.output.read_text()
    assert spec.boundary_file.read_text() == str(spec.boundary)


def recover(scene: Scene, spec: RunSpec, ignored_folder: str | None = None) -> None:
    """Run the same plan and all later plans, then the killed run again as a zombie executor. Compare the stores."""
    with scene.opened(spec.settings) as world:
        world.run(scene.plan, "retry")
        world.settle()
        assert world.run(scene.plan, spec.run_id).closed == []
        world.settle()
        scene.assert_same_as_undisturbed(world, ignored_folder)


def kill_and_recover(scene: Scene, boundary: Boundary, folder: Path, ignored_folder: str | None = None) -> None:
    with scene.provisioned() as settings:
        spec = RunSpec(settings, scene.plan, scene.now, folder, boundary=boundary)
        run_until_killed(spec)
        recover(scene, spec, ignored_folder)


@pytest.mark.parametrize("boundary", BOUNDARIES, ids=str)
def test_a_run_killed_at_a_boundary_leaves_no_trace_after_recovery(scene: Scene, boundary: Boundary, tmp_path: Path) -> None:
    kill_and_recover(scene, boundary, tmp_path)


@pytest.mark.parametrize("boundary", [Boundary("object_store.put events", 3, moment) for moment in ("before", "within", "after")], ids=str)
def test_a_run_killed_between_tars_leaves_no_trace_after_recovery(young_events: Scene, boundary: Boundary, tmp_path: Path) -> None:
    """Another thread may be probing whether the store unpacks tars. A probe an hour later deletes the objects of an older one."""
    kill_and_recover(young_events, boundary, tmp_path, TAR_PROBE)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Boundary("ledger.begin_batch"), Boundary("ledger.begin_batch", 1, "after")),
        (Boundary("ledger.begin_batch", 1, "after"), Boundary("object_store.put_if_absent", 1, "after")),
        (Boundary("recent_events.claim", 2, "within"), Boundary("recent_events.claim", 3, "within")),
        (Boundary("object_store.put events", 2, "within"), Boundary("ledger.close_batch")),
        (Boundary("ledger.close_batch", 1, "after"), Boundary("ledger.close_batch", 1, "after")),
    ],
    ids=str,
)
def test_a_run_whose_retry_is_also_killed_leaves_no_trace_after_recovery(
    scene: Scene, first: Boundary, second: Boundary, tmp_path: Path
) -> None:
    with scene.provisioned() as settings:
        spec = RunSpec(settings, scene.plan, scene.now, tmp_path, boundary=first)
        run_until_killed(spec)
        run_until_killed(RunSpec(settings, scene.plan, scene.now, tmp_path, RETRY_RUN_ID, second))
        recover(scene, spec)


class KillDuringRequest:
    """A rule of a proxy that kills the process while its n-th matching request is in flight."""

    def __init__(self, content: bytes, number: int, *, executed: bool) -> None:
        """Match requests that contain `content`.

        If `executed`, the server receives the whole request and only the response is lost. Otherwise it receives the first half.
        """
        self._content, self._requests_left, self._executed = content, number, executed
        self.pid: int | None = None
        self.killed = False

    def __call__(self, exchange: Exchange) -> None:
        self._requests_left -= self._content in exchange.raw
        if self._requests_left or self.killed or self._content not in exchange.raw:
            pass_through(exchange)
            return
        self.killed = True
        if self._executed:
            exchange.forward()
        else:
            exchange.forward_half()
        assert self.pid is not None
        os.kill(self.pid, signal.SIGKILL)
        exchange.hang_up()


TRANSACTIONS = {
    "begin": (b'"#first":"first"', 1),
    "mark": (b'"#staged":"staged"', 1),
    "first claim": (b":claimable_until", 1),
    "middle claim": (b":claimable_until", 3),
    "close": (b'"Delete"', 1),
}


@pytest.mark.parametrize("executed", [True, False], ids=["executed", "half sent"])
@pytest.mark.parametrize("transaction", TRANSACTIONS)
def test_a_run_killed_during_a_transaction_leaves_no_trace_after_recovery(
    scene: Scene, transaction: str, executed: bool, tmp_path: Path
) -> None:
    rule = KillDuringRequest(*TRANSACTIONS[transaction], executed=executed)
    with scene.provisioned() as settings, http_proxy(settings.dynamo_endpoint) as proxy:
        proxy.rule = rule
        through = settings.model_copy(update={"dynamo_endpoint": proxy.url})
        run_until_killed_by(rule, RunSpec(through, scene.plan, scene.now, tmp_path))
        recover(scene, RunSpec(settings, scene.plan, scene.now, tmp_path))


@pytest.mark.parametrize("executed", [True, False], ids=["executed", "half sent"])
@pytest.mark.parametrize(("tree", "number"), [("staging", 1), ("events", 1), ("events", 40), ("parquet", 2)])
def test_a_run_killed_during_an_upload_leaves_no_trace_after_recovery(
    scene: Scene, tree: str, number: int, executed: bool, tmp_path: Path
) -> None:
    with scene.provisioned() as settings, http_proxy(settings.minio_endpoint) as proxy:
        through = settings.model_copy(update={"minio_endpoint": proxy.url, "minio_snowball": "off"})
        with scene.opened(through) as platform:
            register_stores("setup", platform.ports)
        rule = KillDuringRequest(f"PUT /{settings.archive_bucket_name}/{tree}/".encode(), number, executed=executed)
        proxy.rule = rule
        run_until_killed_by(rule, RunSpec(through, scene.plan, scene.now, tmp_path))
        recover(scene, RunSpec(settings, scene.plan, scene.now, tmp_path))


@pytest.mark.parametrize("executed", [True, False], ids=["executed", "half sent"])
@pytest.mark.parametrize("number", [1, 2, 3, 5], ids=["probe", "impossible probe", "first tar", "third tar"])
def test_a_run_killed_during_a_tar_leaves_at_most_objects_of_the_probe(
    young_events: Scene, number: int, executed: bool, tmp_path: Path
) -> None:
    scene = young_events
    with scene.provisioned() as settings, http_proxy(settings.minio_endpoint) as proxy:
        rule = KillDuringRequest(f"PUT /{settings.archive_bucket_name}/{TAR_PROBE}".encode(), number, executed=executed)
        proxy.rule = rule
        through = settings.model_copy(update={"minio_endpoint": proxy.url})
        run_until_killed_by(rule, RunSpec(through, scene.plan, scene.now, tmp_path))
        probe_keys = raw_clients.keys(settings.archive_bucket_name, TAR_PROBE)
        assert len(probe_keys) <= 3 * (number <= 2), probe_keys
        for key in probe_keys:
            raw_clients.s3().delete_object(Bucket=settings.archive_bucket_name, Key=key)
        recover(scene, RunSpec(settings, scene.plan, scene.now, tmp_path))


def run_until_killed_by(rule: KillDuringRequest, spec: RunSpec) -> None:
    with killable_run.launched(spec) as process:
        rule.pid = process.pid
        process.join(60)
        assert process.exitcode == -signal.SIGKILL, spec.output.read_text()
    assert rule.killed
