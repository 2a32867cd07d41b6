"""Downloads and builds the real servers once, into `~/.cache/analytics-defs` (`XDG_CACHE_HOME` moves it), outside every checkout."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import click

from analytics_defs.devstack.processes import last_lines
from analytics_defs.errors import StartupFailed

KAFKA_VERSION = "4.3.1"
DYNAMODB_LOCAL_VERSION = "3.1.0"
MINIO_VERSION = "v0.0.0-20260212201848-7aac2a2c5b7c"
_KAFKA = (
    f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}",
    f"org.apache.kafka:kafka-tools:{KAFKA_VERSION}",
    "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4",
)
_DYNAMODB_LOCAL = (f"software.amazon.dynamodb:DynamoDBLocal:{DYNAMODB_LOCAL_VERSION}",)
_GO_NEEDED = (1, 24)
_GO_FETCHED = "1.24.9"
_PROGRESS_EVERY = timedelta(seconds=10)
_HOW_TO_GET = {
    "java": "java, 17 or newer (Debian: apt install default-jre-headless)",
    "mvn": "mvn (Debian: apt install maven)",
    "go": "go (Debian: apt install golang-go)",
    "redis-server": "redis-server (Debian: apt install redis-server)",
}


def everything() -> None:
    """Fetches and builds what is not cached. A CannotStart names every tool that is missing, before anything is downloaded."""
    _require_tools()
    kafka_jars()
    dynamodb_jars()
    minio_binary()


def _require_tools() -> None:
    needed = {"java": True, "mvn": not (_kafka_home().exists() and _dynamodb_home().exists()), "go": not _minio_home().exists()}
    missing = [_HOW_TO_GET[tool] for tool, wanted in needed.items() if wanted and shutil.which(tool) is None]
    if missing:
        raise StartupFailed(f"the real servers need what was not found on the PATH: {'; '.join(missing)}")


def tool(name: str) -> str:
    """The path of a program. Raises StartupFailed that says how to get it."""
    path = shutil.which(name)
    if path is None:
        raise StartupFailed(f"not found on the PATH: {_HOW_TO_GET.get(name, name)}")
    return path


def kafka_jars() -> Path:
    """The folder of Apache Kafka's jars; fetched on first use."""
    return _installed(_kafka_home(), lambda folder: _fetch_jars("Apache Kafka", _KAFKA, folder))


def dynamodb_jars() -> Path:
    """The folder of DynamoDB Local's jars and its native SQLite libraries; fetched on first use."""
    return _installed(_dynamodb_home(), lambda folder: _fetch_jars("DynamoDB Local", _DYNAMODB_LOCAL, folder))


def minio_binary() -> Path:
    """MinIO's server, compiled on first use."""
    return _installed(_minio_home(), _build_minio) / "minio"


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "analytics-defs"


def _kafka_home() -> Path:
    return _cache() / f"kafka-{KAFKA_VERSION}"


def _dynamodb_home() -> Path:
    return _cache() / f"dynamodb-local-{DYNAMODB_LOCAL_VERSION}"


def _minio_home() -> Path:
    return _cache() / f"minio-{MINIO_VERSION}"


def _installed(home: Path, build: Callable[[Path], None]) -> Path:
    """`home`, built where it is missing: by one process at a time, and in a folder beside it, so that it is there whole or not at all."""
    if home.exists():
        return home
    home.parent.mkdir(parents=True, exist_ok=True)
    with _exclusive(home.parent / "lock"):
        if not home.exists():
            with tempfile.TemporaryDirectory(prefix="building-", dir=home.parent) as workshop:
                result = Path(workshop, "result")
                result.mkdir()
                build(result)
                result.rename(home)
    return home


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            click.echo(f"another process is filling {path.parent}: waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _fetch_jars(name: str, coordinates: Sequence[str], folder: Path) -> None:
    project = folder.with_name("pom.xml")
    project.write_text(_project(coordinates), encoding="utf-8")
    goal = ("dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={folder}")
    _run(f"{name}: fetching about 50 MB of jars, once", [tool("mvn"), "-B", "-f", str(project), *goal], log=folder.with_name("log"))


def _project(coordinates: Sequence[str]) -> str:
    """A Maven project that depends on `group:artifact:version` coordinates, and on nothing else."""
    fields = ("groupId", "artifactId", "version")

    def block(coordinate: str) -> str:
        return "".join(f"<{field}>{value}</{field}>" for field, value in zip(fields, coordinate.split(":"), strict=True))

    dependencies = "".join(f"<dependency>{block(coordinate)}</dependency>" for coordinate in coordinates)
    head = f"<modelVersion>4.0.0</modelVersion>{block('local:servers:1')}"
    return f'<project xmlns="http://maven.apache.org/POM/4.0.0">{head}<dependencies>{dependencies}</dependencies></project>\n'


def _build_minio(folder: Path) -> None:
    log = folder.with_name("log")
    environment = os.environ | {"GOBIN": str(folder), "CGO_ENABLED": "0", "GOTOOLCHAIN": "local"}
    environment.pop("GOROOT", None)
    command = [_compiler(log), "install", "-v", "-trimpath", f"github.com/minio/minio@{MINIO_VERSION}"]
    _run("MinIO: compiling, once, about 4 minutes on two cores", command, log=log, environment=environment)


def _compiler(log: Path) -> str:
    """A Go new enough for MinIO: the one on the PATH, or else (Debian's is older) one that it fetches as a module."""
    go = tool("go")
    version = re.search(r"go([0-9]+)\.([0-9]+)\S* (\w+)/(\w+)", subprocess.check_output([go, "version"], text=True))
    if version is None:
        raise StartupFailed(f"{go} does not tell its version")
    if (int(version[1]), int(version[2])) >= _GO_NEEDED:
        return go
    module = f"golang.org/toolchain@v0.0.1-go{_GO_FETCHED}.{version[3]}-{version[4]}"
    _run(f"Go {_GO_FETCHED}: fetching 70 MB, once", [go, "mod", "download", "-json", module], log=log)
    home = Path(json.loads(log.read_text(encoding="utf-8"))["Dir"])
    for program in (*home.glob("bin/*"), *home.glob("pkg/tool/*/*")):
        program.chmod(0o755)  # an old Go unpacks a module's files without their modes
    return str(home / "bin" / "go")


def _run(title: str, command: Sequence[str], *, log: Path, environment: dict[str, str] | None = None) -> None:
    """Runs a build and says every few seconds where it is. Raises StartupFailed with the end of its output where it fails."""
    click.echo(title)
    started = time.monotonic()
    with log.open("w", encoding="utf-8") as output:
        build = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            while (status := _wait(build, _PROGRESS_EVERY)) is None:
                click.echo(f"  {time.monotonic() - started:4.0f} s  {last_lines(log, 1):.110}")
        finally:
            build.kill()
            build.wait()
    if status:
        _failed(title, command, log)
    click.echo(f"  done in {time.monotonic() - started:.0f} s")


def _wait(build: subprocess.Popen[bytes], limit: timedelta) -> int | None:
    try:
        return build.wait(limit.total_seconds())
    except subprocess.TimeoutExpired:
        return None


def _failed(title: str, command: Sequence[str], log: Path) -> NoReturn:
    raise StartupFailed(f"{title}: `{' '.join(command)}` failed. Its last lines:\n{last_lines(log)}")
