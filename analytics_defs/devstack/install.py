"""Download and build of the real servers, once, into `~/.cache/analytics-defs` (or below `XDG_CACHE_HOME`)."""

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
_MIN_GO_VERSION = (1, 24)
_GO_VERSION = "1.24.9"
_PROGRESS_INTERVAL = timedelta(seconds=10)
_INSTALL_HINTS = {
    "java": "java, 17 or newer (Debian: apt install default-jre-headless)",
    "mvn": "mvn (Debian: apt install maven)",
    "go": "go (Debian: apt install golang-go)",
    "redis-server": "redis-server (Debian: apt install redis-server)",
}


def install_servers() -> None:
    """Download and build the servers that are not cached.

    Raise StartupFailed with every missing tool before anything is downloaded.
    """
    _require_tools()
    kafka_jars()
    dynamodb_jars()
    minio_binary()


def _require_tools() -> None:
    required = {"java": True, "mvn": not (_kafka_home().exists() and _dynamodb_home().exists()), "go": not _minio_home().exists()}
    missing = [_INSTALL_HINTS[tool] for tool, is_required in required.items() if is_required and shutil.which(tool) is None]
    if missing:
        raise StartupFailed(f"the real servers require programs that are not on the PATH: {'; '.join(missing)}")


def tool(name: str) -> str:
    """Return the path of a program. Raise StartupFailed with an installation hint if it is missing."""
    path = shutil.which(name)
    if path is None:
        raise StartupFailed(f"not found on the PATH: {_INSTALL_HINTS.get(name, name)}")
    return path


def kafka_jars() -> Path:
    """Return the folder of Apache Kafka's jars. They are downloaded on first use."""
    return _installed(_kafka_home(), lambda folder: _fetch_jars("Apache Kafka", _KAFKA, folder))


def dynamodb_jars() -> Path:
    """Return the folder of DynamoDB Local's jars and native SQLite libraries. They are downloaded on first use."""
    return _installed(_dynamodb_home(), lambda folder: _fetch_jars("DynamoDB Local", _DYNAMODB_LOCAL, folder))


def minio_binary() -> Path:
    """Return the path of the MinIO server. It is compiled on first use."""
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
    """Build `home` if it is missing, and return it.

    One process builds at a time. The build runs in a temporary folder that is renamed at the end, so `home` is never
    incomplete.
    """
    if home.exists():
        return home
    home.parent.mkdir(parents=True, exist_ok=True)
    with _exclusive(home.parent / "lock"):
        if not home.exists():
            with tempfile.TemporaryDirectory(prefix="building-", dir=home.parent) as temporary:
                result = Path(temporary, "result")
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
            click.echo(f"another process is installing servers in {path.parent}: waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _fetch_jars(name: str, coordinates: Sequence[str], folder: Path) -> None:
    project = folder.with_name("pom.xml")
    project.write_text(_project(coordinates), encoding="utf-8")
    goal = ("dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={folder}")
    _run(f"{name}: downloading about 50 MB of jars, once", [tool("mvn"), "-B", "-f", str(project), *goal], log=folder.with_name("log"))


def _project(coordinates: Sequence[str]) -> str:
    """Return a Maven project whose only dependencies are these `group:artifact:version` coordinates."""
    fields = ("groupId", "artifactId", "version")

    def block(coordinate: str) -> str:
        return "".join(f"<{field}>{value}</{field}>" for field, value in zip(fields, coordinate.split(":"), strict=True))

    dependencies = "".join(f"<dependency>{block(coordinate)}</dependency>" for coordinate in coordinates)
    header = f"<modelVersion>4.0.0</modelVersion>{block('local:servers:1')}"
    return f'<project xmlns="http://maven.apache.org/POM/4.0.0">{header}<dependencies>{dependencies}</dependencies></project>\n'


def _build_minio(folder: Path) -> None:
    log = folder.with_name("log")
    environment = os.environ | {"GOBIN": str(folder), "CGO_ENABLED": "0", "GOTOOLCHAIN": "local"}
    environment.pop("GOROOT", None)
    command = [_compiler(log), "install", "-v", "-trimpath", f"github.com/minio/minio@{MINIO_VERSION}"]
    _run("MinIO: compiling, once; about 4 minutes on two cores", command, log=log, environment=environment)


def _compiler(log: Path) -> str:
    """Return a Go compiler that can build MinIO.

    If the compiler on the PATH is too old, as Debian's is, it downloads a newer one as a module.
    """
    go = tool("go")
    version = re.search(r"go([0-9]+)\.([0-9]+)\S* (\w+)/(\w+)", subprocess.check_output([go, "version"], text=True))
    if version is None:
        raise StartupFailed(f"{go} version: expected a version number, found none")
    if (int(version[1]), int(version[2])) >= _MIN_GO_VERSION:
        return go
    module = f"golang.org/toolchain@v0.0.1-go{_GO_VERSION}.{version[3]}-{version[4]}"
    _run(f"Go {_GO_VERSION}: downloading 70 MB, once", [go, "mod", "download", "-json", module], log=log)
    home = Path(json.loads(log.read_text(encoding="utf-8"))["Dir"])
    for program in (*home.glob("bin/*"), *home.glob("pkg/tool/*/*")):
        program.chmod(0o755)  # an old Go unpacks modules without file modes
    return str(home / "bin" / "go")


def _run(title: str, command: Sequence[str], *, log: Path, environment: dict[str, str] | None = None) -> None:
    """Run a build and print its last output line every few seconds.

    Raise StartupFailed with the end of its output if it fails.
    """
    click.echo(title)
    started = time.monotonic()
    with log.open("w", encoding="utf-8") as output:
        build = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            while (status := _wait(build, _PROGRESS_INTERVAL)) is None:
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
