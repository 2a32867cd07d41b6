"""deploy/kubernetes as a cluster would read it: the API's own strict schemas, and how the files fit each other, the image and the code."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import kubernetes_validate
import pytest
import yaml
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.instance.ref import InstanceRef
from dagster._core.launcher.base import LaunchRunContext, WorkerStatus
from dagster._core.origin import DEFAULT_DAGSTER_ENTRY_POINT, JobPythonOrigin, RepositoryPythonOrigin
from dagster_k8s.client import DagsterKubernetesClient
from jsonschema import Draft202012Validator
from kubernetes.client import (
    ApiClient,
    CoreV1EventList,
    V1Container,
    V1ContainerState,
    V1ContainerStateTerminated,
    V1ContainerStatus,
    V1Job,
    V1JobList,
    V1JobStatus,
    V1ObjectMeta,
    V1Pod,
    V1PodList,
    V1PodSpec,
    V1PodStatus,
)

from analytics_defs.config import load_settings, setting_names
from tests.deploy.files import DEPLOY, compose, dockerfile, environment_of_dagster

FOLDER = DEPLOY / "kubernetes"
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text(encoding="utf-8"))
OLDEST, NEWEST = "1.29", "1.37"
"""Versions of Kubernetes whose schemas the files are held to."""
PARTS = ("code", "daemon", "health", "webserver")

SERVICE_MONITOR = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "monitoring.coreos.com/v1"},
        "kind": {"const": "ServiceMonitor"},
        "spec": {
            "type": "object",
            "required": ["endpoints", "selector"],
            "additionalProperties": False,
            "properties": {
                "jobLabel": {"type": "string"},
                "selector": {"type": "object", "properties": {"matchLabels": {"additionalProperties": {"type": "string"}}}},
                "endpoints": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "additionalProperties": False,
                        "properties": {
                            "port": {"type": "string"},
                            "path": {"type": "string"},
                            "interval": {"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"},
                            "scrapeTimeout": {"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"},
                        },
                    },
                },
            },
        },
    },
}
"""As much of the operator's CustomResourceDefinition as is used here, by its documentation: no package carries it."""


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8")))


RESOURCES = [each for name in KUSTOMIZATION["resources"] for each in documents(name)]
SECRETS = documents("secrets.example.yaml")[0]


def the(kind: str, name: str) -> dict[str, Any]:
    (found,) = [each for each in RESOURCES if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def pod(name: str) -> dict[str, Any]:
    """Of a Deployment, of the Job that sets up, or of a run."""
    found = run_job() if name == "run" else the("Job" if name == "setup" else "Deployment", name)
    return dict(found["spec"]["template"])


@pytest.fixture(scope="module", autouse=True)
def _environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for each in setting_names():
            patch.delenv(each, raising=False)
        for each in environment_of_dagster():
            patch.setenv(each, compose({})["services"]["code"]["environment"][each])
        patch.setenv("KUBERNETES_NAMESPACE", "analytics")
        patch.setattr("kubernetes.config.load_incluster_config", lambda: None)
        yield


def a_run() -> dg.DagsterRun:
    repository = RepositoryPythonOrigin(
        executable_path="python",
        code_pointer=ModuleCodePointer("analytics_defs.definitions", "defs", None),
        container_image="registry/analytics:1",
        entry_point=DEFAULT_DAGSTER_ENTRY_POINT,
    )
    return dg.DagsterRun(job_name="micro_batch", job_code_origin=JobPythonOrigin("micro_batch", repository))


class Cluster:
    """Both of the client's APIs: writes down what is called, and answers that there is one pod, which failed."""

    def __init__(self) -> None:
        self.calls: set[tuple[str, str]] = set()
        self.jobs: list[dict[str, Any]] = []

    def __getattr__(self, method: str) -> Callable[..., Any]:
        verb, _, noun = method.partition("_namespaced_")
        resource = {"job_status": "jobs/status", "pod_log": "pods/log"}.get(noun, f"{noun}s")

        def call(*_: Any, **arguments: Any) -> Any:
            self.calls.add(({"read": "get"}.get(verb, verb), resource))
            if method == "create_namespaced_job":
                self.jobs.append(ApiClient().sanitize_for_serialization(arguments["body"]))
            return ANSWERS.get(method)

        return call


_ENDED = V1ContainerState(terminated=V1ContainerStateTerminated(exit_code=137, finished_at=datetime.now(UTC)))
_STATUS = V1ContainerStatus(name="dagster", image="i", image_id="i", ready=False, restart_count=0, state=_ENDED)
_POD = V1Pod(
    metadata=V1ObjectMeta(name="a-pod"),
    spec=V1PodSpec(containers=[V1Container(name="dagster")]),
    status=V1PodStatus(phase="Failed", container_statuses=[_STATUS]),
)
_JOB = V1Job(metadata=V1ObjectMeta(name="a-job"), status=V1JobStatus(failed=1, start_time=datetime.now(UTC)))
ANSWERS: dict[str, Any] = {
    "list_namespaced_pod": V1PodList(items=[_POD]),
    "list_namespaced_job": V1JobList(items=[_JOB]),
    "list_namespaced_event": CoreV1EventList(items=[]),
    "read_namespaced_job_status": _JOB,
    "read_namespaced_pod_log": SimpleNamespace(data=b"out of memory"),
}


@contextmanager
def launching() -> Iterator[tuple[Any, Cluster, dg.DagsterRun]]:
    """The launcher of the instance's file on a recorded cluster, and a run that Dagster knows."""
    launcher: Any = InstanceRef.from_dir(str(FOLDER)).run_launcher
    cluster, run = Cluster(), a_run()
    client: Any = DagsterKubernetesClient
    launcher._api_client = client.production_client(cluster, cluster)
    with tempfile.TemporaryDirectory() as folder, dg.DagsterInstance.local_temp(folder) as instance:
        instance.add_run(run)
        launcher.register_instance(instance)
        yield launcher, cluster, run


@functools.cache
def run_job() -> dict[str, Any]:
    """The Job that the launcher makes for a run: its own code, the instance's file, the image that the code server tells."""
    with launching() as (launcher, cluster, run):
        launcher.launch_run(LaunchRunContext(run, None))
    (job,) = cluster.jobs
    return job


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_every_resource_and_the_job_of_a_run_is_what_the_api_takes(version: str) -> None:
    """Strictly: a member that the API does not know is refused."""
    for each in [*RESOURCES, SECRETS, run_job()]:
        kubernetes_validate.validate(each, version, strict=True)


def test_a_misspelt_member_would_be_refused() -> None:
    health = the("Deployment", "health") | {}
    spoiled = yaml.safe_load(yaml.safe_dump(health).replace("readinessProbe", "readynessProbe"))
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(spoiled, NEWEST, strict=True)


def test_the_service_monitor_is_what_the_operator_takes_and_finds_the_health_service() -> None:
    (monitor,) = documents("monitoring/servicemonitor.yaml")
    Draft202012Validator(SERVICE_MONITOR).validate(monitor)
    service = the("Service", "health")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] in [each["name"] for each in service["spec"]["ports"]]
    job = service["metadata"]["labels"][monitor["spec"]["jobLabel"]]
    assert f'up{{job="{job}"}}' in (DEPLOY / "prometheus/alerts.yml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [*PARTS, "setup", "run"])
def test_a_pod_has_no_privileges_writes_to_its_own_volumes_only_and_has_its_size(name: str) -> None:
    """Pod Security's profile `restricted`, which the namespace enforces, and more."""
    spec = pod(name)["spec"]
    (only,) = spec["containers"]
    uid = int(dockerfile().user.partition(":")[0])
    assert spec["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": uid,
        "runAsGroup": uid,
        "fsGroup": uid,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    context = only["securityContext"]
    assert (context["allowPrivilegeEscalation"], context["readOnlyRootFilesystem"], context["capabilities"]) == (
        False,
        True,
        {"drop": ["ALL"]},
    )
    assert sorted(each["mountPath"] for each in only["volumeMounts"]) == ["/tmp", dockerfile().environment["DAGSTER_HOME"]]
    assert all(each["emptyDir"]["sizeLimit"] for each in spec["volumes"])
    assert {"cpu", "memory"} <= only["resources"]["requests"].keys()
    assert "memory" in only["resources"]["limits"]
    assert the("Namespace", "analytics")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("name", [*PARTS, "setup"])
def test_commands_are_those_of_compose_which_run_in_a_test(name: str) -> None:
    theirs = compose({})["services"][name]["command"]
    (only,) = pod(name)["spec"]["containers"]
    assert only["command"] == [word.replace("/app/deploy/", "/app/deploy/kubernetes/") for word in theirs]


def test_the_health_endpoint_is_restarted_only_when_it_does_not_answer_and_reached_also_when_a_store_does_not() -> None:
    (only,) = pod("health")["spec"]["containers"]
    probes = {kind: only[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")}
    assert probes == {"startup": "/health/live", "liveness": "/health/live", "readiness": "/health/ready"}
    assert the("Service", "health")["spec"]["publishNotReadyAddresses"]
    assert only["ports"] == [{"name": "http", "containerPort": int(dockerfile().environment["HEALTH_PORT"])}]


@pytest.mark.parametrize("name", PARTS)
def test_whatever_stays_up_is_probed_and_has_more_time_to_end_than_compose_gives_it_or_a_tick(name: str) -> None:
    (only,) = pod(name)["spec"]["containers"]
    assert {"startupProbe", "livenessProbe"} <= only.keys()
    # The code server has no runs in it here: what it waits for is a tick, of 60 s at most.
    least = 60 if name == "code" else int(compose({})["services"][name]["stop_grace_period"].removesuffix("s"))
    assert pod(name)["spec"]["terminationGracePeriodSeconds"] > least


def test_a_run_ends_before_dagster_stops_waiting_for_it_and_is_never_started_again_by_the_cluster() -> None:
    job, waits = run_job(), yaml.safe_load((FOLDER / "dagster.yaml").read_text(encoding="utf-8"))["run_monitoring"]
    assert 100 <= job["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] < waits["cancel_timeout_seconds"]
    assert (job["spec"]["backoffLimit"], job["spec"]["template"]["spec"]["restartPolicy"]) == (0, "Never")
    assert job["spec"]["ttlSecondsAfterFinished"] > 0


def test_a_run_is_of_the_code_servers_image_with_the_same_settings_and_an_account_without_the_clusters_token() -> None:
    job = run_job()
    (only,) = job["spec"]["template"]["spec"]["containers"]
    assert only["image"] == "registry/analytics:1"
    (code,) = pod("code")["spec"]["containers"]
    assert only["envFrom"] == code["envFrom"]
    assert {each["name"]: each["value"] for each in only["env"]}["DAGSTER_HOME"] == the("ConfigMap", "analytics-settings")["data"][
        "DAGSTER_HOME"
    ]
    assert job["spec"]["template"]["spec"]["serviceAccountName"] == "analytics-run"
    assert job["spec"]["template"]["spec"]["automountServiceAccountToken"] is False


def test_only_those_that_start_or_end_runs_may_speak_to_the_cluster() -> None:
    speaking = {name for name in (*PARTS, "setup", "run") if pod(name)["spec"]["automountServiceAccountToken"]}
    assert speaking == {"daemon", "webserver"}
    assert {pod(name)["spec"]["serviceAccountName"] for name in speaking} == {"analytics-dagster"}
    accounts = {each["metadata"]["name"] for each in RESOURCES if each["kind"] == "ServiceAccount"}
    assert {pod(name)["spec"]["serviceAccountName"] for name in (*PARTS, "setup", "run")} == accounts
    (binding,) = [each for each in RESOURCES if each["kind"] == "RoleBinding"]
    assert [each["name"] for each in binding["subjects"]] == ["analytics-dagster"]


def test_the_role_allows_what_the_launcher_asks_the_cluster_for_and_nothing_more() -> None:
    with launching() as (launcher, cluster, run):
        launcher.launch_run(LaunchRunContext(run, None))
        assert launcher.check_run_worker_health(run).status is WorkerStatus.FAILED
        assert "out of memory" in launcher.get_run_worker_debug_info(run)
        assert launcher.terminate(run.run_id)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(ANSWERS, "list_namespaced_pod", V1PodList(items=[]))
            launcher.get_run_worker_debug_info(run)
    rules = the("Role", "analytics-dagster")["rules"]
    allowed = {(verb, resource) for rule in rules for verb in rule["verbs"] for resource in rule["resources"]}
    assert allowed == cluster.calls


@pytest.mark.parametrize("name", [*PARTS, "setup", "run"])
def test_no_service_of_the_namespace_sets_a_setting(name: str) -> None:
    """The Service `health` would make `HEALTH_PORT=tcp://…` in every pod."""
    assert pod(name)["spec"]["enableServiceLinks"] is False


def test_the_environment_makes_valid_settings_and_all_that_dagster_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    given, secret = the("ConfigMap", "analytics-settings")["data"], SECRETS["stringData"]
    assert given.keys() | secret.keys() <= {*setting_names(), *environment_of_dagster(), "DAGSTER_HOME", "TMPDIR"}
    assert environment_of_dagster() <= given.keys() | secret.keys()
    assert not any(re.search("PASSWORD|SECRET|ACCESS_KEY", each) for each in given)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert the("Service", given["DAGSTER_GRPC_HOST"])["spec"]["ports"][0]["port"] == int(given["DAGSTER_GRPC_PORT"])
    assert settings.archive_bucket_name == "event-archive"


def test_policies_let_in_whom_the_services_are_for_and_nobody_else() -> None:
    policies = [each for each in RESOURCES if each["kind"] == "NetworkPolicy"]
    closed = [each for each in policies if each["spec"]["podSelector"] == {}]
    assert [each["spec"].get("ingress") for each in closed] == [None]
    opened = {each["spec"]["podSelector"]["matchLabels"].get("analytics/role") for each in policies if "ingress" in each["spec"]}
    assert opened == {"code", "health", "webserver"}
    for each in policies:
        wanted = each["spec"]["podSelector"].get("matchLabels", {})
        if role := wanted.get("analytics/role"):
            assert pod(role)["metadata"]["labels"]["analytics/role"] == role
    (only,) = [each for each in policies if each["spec"]["policyTypes"] == ["Egress"]]
    assert run_job()["spec"]["template"]["metadata"]["labels"].items() >= only["spec"]["podSelector"]["matchLabels"].items()


def test_every_file_of_the_folder_is_used() -> None:
    used = {*KUSTOMIZATION["resources"], "kustomization.yaml", "dagster.yaml", "workspace.yaml", "secrets.example.yaml"}
    assert {each.name for each in FOLDER.glob("*.yaml")} == used


@pytest.mark.skipif(not (shutil.which("kustomize") or shutil.which("kubectl")), reason="neither kustomize nor kubectl is installed")
def test_the_overlay_of_the_readme_renders_to_what_the_api_takes_and_runs_have_its_image(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "kubernetes")
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    text = (FOLDER / "README.md").read_text(encoding="utf-8").partition("```yaml\n")[2].partition("```")[0]
    (overlay / "kustomization.yaml").write_text(text, encoding="utf-8")
    command = ["kustomize", "build"] if shutil.which("kustomize") else ["kubectl", "kustomize"]
    done = subprocess.run([*command, str(overlay)], capture_output=True, text=True, check=True)
    rendered = {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(done.stdout)}
    for (kind, _), each in rendered.items():
        if kind != "ServiceMonitor":
            kubernetes_validate.validate(each, NEWEST, strict=True)
    assert set(re.findall(r"image: (\S+)", done.stdout)) == {"REGISTRY/analytics:0.1.0"}
    (code,) = rendered["Deployment", "code"]["spec"]["template"]["spec"]["containers"]
    assert {"name": "DAGSTER_CURRENT_IMAGE", "value": "REGISTRY/analytics:0.1.0"} in code["env"]
    assert rendered["ConfigMap", "analytics-settings"]["data"]["ARCHIVE_BUCKET_NAME"] == "my-archive"
    assert ("ServiceMonitor", "analytics") in rendered
    assert {each["metadata"].get("namespace") for (kind, _), each in rendered.items() if kind != "Namespace"} == {"analytics"}
