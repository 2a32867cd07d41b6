"""The files of deploy/kubernetes match the schemas of the API, each other, the image and the code."""

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
"""Versions of Kubernetes whose schemas the files must match."""
COMPONENTS = ("code", "daemon", "health", "webserver")

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
"""The used part of the operator's CustomResourceDefinition, by its documentation. No Python package contains it."""


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8")))


RESOURCES = [resource for name in KUSTOMIZATION["resources"] for resource in documents(name)]
SECRETS = documents("secrets.example.yaml")[0]


def resource(kind: str, name: str) -> dict[str, Any]:
    (match,) = [document for document in RESOURCES if (document["kind"], document["metadata"]["name"]) == (kind, name)]
    return match


def pod(name: str) -> dict[str, Any]:
    """Return the pod template of a Deployment, of the Job `setup`, or of a run."""
    owner = run_job() if name == "run" else resource("Job" if name == "setup" else "Deployment", name)
    return dict(owner["spec"]["template"])


@pytest.fixture(scope="module", autouse=True)
def _environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in setting_names():
            patch.delenv(name, raising=False)
        for name in environment_of_dagster():
            patch.setenv(name, compose({})["services"]["code"]["environment"][name])
        patch.setenv("KUBERNETES_NAMESPACE", "analytics")
        patch.setattr("kubernetes.config.load_incluster_config", lambda: None)
        yield


def new_run() -> dg.DagsterRun:
    repository = RepositoryPythonOrigin(
        executable_path="python",
        code_pointer=ModuleCodePointer("analytics_defs.definitions", "defs", None),
        container_image="registry/analytics:1",
        entry_point=DEFAULT_DAGSTER_ENTRY_POINT,
    )
    return dg.DagsterRun(job_name="micro_batch", job_code_origin=JobPythonOrigin("micro_batch", repository))


class RecordedCluster:
    """Both APIs of the client. It records the calls, and returns a single failed pod."""

    def __init__(self) -> None:
        self.calls: set[tuple[str, str]] = set()
        self.jobs: list[dict[str, Any]] = []

    def __getattr__(self, method: str) -> Callable[..., Any]:
        verb, _, noun = method.partition("_namespaced_")
        path = {"job_status": "jobs/status", "pod_log": "pods/log"}.get(noun, f"{noun}s")

        def call(*_: Any, **arguments: Any) -> Any:
            self.calls.add(({"read": "get"}.get(verb, verb), path))
            if method == "create_namespaced_job":
                self.jobs.append(ApiClient().sanitize_for_serialization(arguments["body"]))
            return RESPONSES.get(method)

        return call


_TERMINATED = V1ContainerState(terminated=V1ContainerStateTerminated(exit_code=137, finished_at=datetime.now(UTC)))
_STATUS = V1ContainerStatus(name="dagster", image="i", image_id="i", ready=False, restart_count=0, state=_TERMINATED)
_POD = V1Pod(
    metadata=V1ObjectMeta(name="a-pod"),
    spec=V1PodSpec(containers=[V1Container(name="dagster")]),
    status=V1PodStatus(phase="Failed", container_statuses=[_STATUS]),
)
_JOB = V1Job(metadata=V1ObjectMeta(name="a-job"), status=V1JobStatus(failed=1, start_time=datetime.now(UTC)))
RESPONSES: dict[str, Any] = {
    "list_namespaced_pod": V1PodList(items=[_POD]),
    "list_namespaced_job": V1JobList(items=[_JOB]),
    "list_namespaced_event": CoreV1EventList(items=[]),
    "read_namespaced_job_status": _JOB,
    "read_namespaced_pod_log": SimpleNamespace(data=b"out of memory"),
}


@contextmanager
def launching() -> Iterator[tuple[Any, RecordedCluster, dg.DagsterRun]]:
    """Yield the launcher that dagster.yaml configures, a recorded cluster, and a run of the instance."""
    launcher: Any = InstanceRef.from_dir(str(FOLDER)).run_launcher
    cluster, run = RecordedCluster(), new_run()
    client: Any = DagsterKubernetesClient
    launcher._api_client = client.production_client(cluster, cluster)
    with tempfile.TemporaryDirectory() as folder, dg.DagsterInstance.local_temp(folder) as instance:
        instance.add_run(run)
        launcher.register_instance(instance)
        yield launcher, cluster, run


@functools.cache
def run_job() -> dict[str, Any]:
    """Return the Job that the launcher creates for a run, with the image that the code server reports."""
    with launching() as (launcher, cluster, run):
        launcher.launch_run(LaunchRunContext(run, None))
    (job,) = cluster.jobs
    return job


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_every_resource_and_the_job_of_a_run_match_the_strict_schemas(version: str) -> None:
    for document in [*RESOURCES, SECRETS, run_job()]:
        kubernetes_validate.validate(document, version, strict=True)


def test_a_misspelled_field_is_rejected() -> None:
    health = resource("Deployment", "health") | {}
    misspelled = yaml.safe_load(yaml.safe_dump(health).replace("readinessProbe", "readynessProbe"))
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(misspelled, NEWEST, strict=True)


def test_the_service_monitor_is_valid_and_selects_the_health_service() -> None:
    (monitor,) = documents("monitoring/servicemonitor.yaml")
    Draft202012Validator(SERVICE_MONITOR).validate(monitor)
    service = resource("Service", "health")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] in [port["name"] for port in service["spec"]["ports"]]
    job = service["metadata"]["labels"][monitor["spec"]["jobLabel"]]
    assert f'up{{job="{job}"}}' in (DEPLOY / "prometheus/alerts.yml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [*COMPONENTS, "setup", "run"])
def test_a_pod_is_unprivileged_with_read_only_root_and_resource_limits(name: str) -> None:
    """The namespace enforces the Pod Security profile `restricted`. These checks are stricter."""
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
    assert sorted(mount["mountPath"] for mount in only["volumeMounts"]) == ["/tmp", dockerfile().environment["DAGSTER_HOME"]]
    assert all(volume["emptyDir"]["sizeLimit"] for volume in spec["volumes"])
    assert {"cpu", "memory"} <= only["resources"]["requests"].keys()
    assert "memory" in only["resources"]["limits"]
    assert resource("Namespace", "analytics")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("name", [*COMPONENTS, "setup"])
def test_commands_equal_those_of_compose_which_other_tests_execute(name: str) -> None:
    command = compose({})["services"][name]["command"]
    (only,) = pod(name)["spec"]["containers"]
    assert only["command"] == [word.replace("/app/deploy/", "/app/deploy/kubernetes/") for word in command]


def test_the_health_endpoint_stays_reachable_while_a_store_is_unavailable() -> None:
    (only,) = pod("health")["spec"]["containers"]
    probes = {kind: only[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")}
    assert probes == {"startup": "/health/live", "liveness": "/health/live", "readiness": "/health/ready"}
    assert resource("Service", "health")["spec"]["publishNotReadyAddresses"]
    assert only["ports"] == [{"name": "http", "containerPort": int(dockerfile().environment["HEALTH_PORT"])}]


@pytest.mark.parametrize("name", COMPONENTS)
def test_deployments_have_probes_and_a_longer_grace_period_than_in_compose(name: str) -> None:
    (only,) = pod(name)["spec"]["containers"]
    assert {"startupProbe", "livenessProbe"} <= only.keys()
    # The code server executes no runs here. It waits only for a tick, which takes at most 60 s.
    minimum = 60 if name == "code" else int(compose({})["services"][name]["stop_grace_period"].removesuffix("s"))
    assert pod(name)["spec"]["terminationGracePeriodSeconds"] > minimum


def test_a_run_ends_before_the_cancel_timeout_and_kubernetes_never_retries_it() -> None:
    job, monitoring = run_job(), yaml.safe_load((FOLDER / "dagster.yaml").read_text(encoding="utf-8"))["run_monitoring"]
    assert 100 <= job["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] < monitoring["cancel_timeout_seconds"]
    assert (job["spec"]["backoffLimit"], job["spec"]["template"]["spec"]["restartPolicy"]) == (0, "Never")
    assert job["spec"]["ttlSecondsAfterFinished"] > 0


def test_a_run_has_image_and_settings_of_the_code_server_and_no_api_token() -> None:
    job = run_job()
    (only,) = job["spec"]["template"]["spec"]["containers"]
    assert only["image"] == "registry/analytics:1"
    (code,) = pod("code")["spec"]["containers"]
    assert only["envFrom"] == code["envFrom"]
    assert {variable["name"]: variable["value"] for variable in only["env"]}["DAGSTER_HOME"] == resource("ConfigMap", "analytics-settings")[
        "data"
    ]["DAGSTER_HOME"]
    assert job["spec"]["template"]["spec"]["serviceAccountName"] == "analytics-run"
    assert job["spec"]["template"]["spec"]["automountServiceAccountToken"] is False


def test_only_the_daemon_and_the_webserver_may_call_the_kubernetes_api() -> None:
    with_token = {name for name in (*COMPONENTS, "setup", "run") if pod(name)["spec"]["automountServiceAccountToken"]}
    assert with_token == {"daemon", "webserver"}
    assert {pod(name)["spec"]["serviceAccountName"] for name in with_token} == {"analytics-dagster"}
    accounts = {document["metadata"]["name"] for document in RESOURCES if document["kind"] == "ServiceAccount"}
    assert {pod(name)["spec"]["serviceAccountName"] for name in (*COMPONENTS, "setup", "run")} == accounts
    (binding,) = [document for document in RESOURCES if document["kind"] == "RoleBinding"]
    assert [subject["name"] for subject in binding["subjects"]] == ["analytics-dagster"]


def test_the_role_allows_exactly_the_api_calls_of_the_launcher() -> None:
    with launching() as (launcher, cluster, run):
        launcher.launch_run(LaunchRunContext(run, None))
        assert launcher.check_run_worker_health(run).status is WorkerStatus.FAILED
        assert "out of memory" in launcher.get_run_worker_debug_info(run)
        assert launcher.terminate(run.run_id)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(RESPONSES, "list_namespaced_pod", V1PodList(items=[]))
            launcher.get_run_worker_debug_info(run)
    rules = resource("Role", "analytics-dagster")["rules"]
    allowed = {(verb, kind) for rule in rules for verb in rule["verbs"] for kind in rule["resources"]}
    assert allowed == cluster.calls


@pytest.mark.parametrize("name", [*COMPONENTS, "setup", "run"])
def test_no_service_of_the_namespace_changes_a_setting(name: str) -> None:
    """With service links, the Service `health` would set `HEALTH_PORT=tcp://…` in every pod."""
    assert pod(name)["spec"]["enableServiceLinks"] is False


def test_the_environment_has_valid_settings_and_all_variables_of_dagster(monkeypatch: pytest.MonkeyPatch) -> None:
    values, secret = resource("ConfigMap", "analytics-settings")["data"], SECRETS["stringData"]
    assert values.keys() | secret.keys() <= {*setting_names(), *environment_of_dagster(), "DAGSTER_HOME", "TMPDIR"}
    assert environment_of_dagster() <= values.keys() | secret.keys()
    assert not any(re.search("PASSWORD|SECRET|ACCESS_KEY", name) for name in values)
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert resource("Service", values["DAGSTER_GRPC_HOST"])["spec"]["ports"][0]["port"] == int(values["DAGSTER_GRPC_PORT"])
    assert settings.archive_bucket_name == "event-archive"


def test_network_policies_admit_only_the_clients_of_each_service() -> None:
    policies = [document["spec"] for document in RESOURCES if document["kind"] == "NetworkPolicy"]
    deny_all = [policy for policy in policies if policy["podSelector"] == {}]
    assert [policy.get("ingress") for policy in deny_all] == [None]
    admitting = {policy["podSelector"]["matchLabels"].get("analytics/role") for policy in policies if "ingress" in policy}
    assert admitting == {"code", "health", "webserver"}
    for policy in policies:
        labels = policy["podSelector"].get("matchLabels", {})
        if role := labels.get("analytics/role"):
            assert pod(role)["metadata"]["labels"]["analytics/role"] == role
    (egress,) = [policy for policy in policies if policy["policyTypes"] == ["Egress"]]
    assert run_job()["spec"]["template"]["metadata"]["labels"].items() >= egress["podSelector"]["matchLabels"].items()


def test_every_file_of_the_folder_is_used() -> None:
    used = {*KUSTOMIZATION["resources"], "kustomization.yaml", "dagster.yaml", "workspace.yaml", "secrets.example.yaml"}
    assert {file.name for file in FOLDER.glob("*.yaml")} == used


@pytest.mark.skipif(not (shutil.which("kustomize") or shutil.which("kubectl")), reason="neither kustomize nor kubectl is installed")
def test_the_overlay_of_the_readme_renders_valid_resources_with_its_image(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "kubernetes")
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    text = (FOLDER / "README.md").read_text(encoding="utf-8").partition("```yaml\n")[2].partition("```")[0]
    (overlay / "kustomization.yaml").write_text(text, encoding="utf-8")
    command = ["kustomize", "build"] if shutil.which("kustomize") else ["kubectl", "kustomize"]
    result = subprocess.run([*command, str(overlay)], capture_output=True, text=True, check=True)
    rendered = {(document["kind"], document["metadata"]["name"]): document for document in yaml.safe_load_all(result.stdout)}
    for (kind, _), document in rendered.items():
        if kind != "ServiceMonitor":
            kubernetes_validate.validate(document, NEWEST, strict=True)
    assert set(re.findall(r"image: (\S+)", result.stdout)) == {"REGISTRY/analytics:0.1.0"}
    (code,) = rendered["Deployment", "code"]["spec"]["template"]["spec"]["containers"]
    assert {"name": "DAGSTER_CURRENT_IMAGE", "value": "REGISTRY/analytics:0.1.0"} in code["env"]
    assert rendered["ConfigMap", "analytics-settings"]["data"]["ARCHIVE_BUCKET_NAME"] == "my-archive"
    assert ("ServiceMonitor", "analytics") in rendered
    assert {document["metadata"].get("namespace") for (kind, _), document in rendered.items() if kind != "Namespace"} == {"analytics"}
