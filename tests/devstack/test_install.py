from __future__ import annotations

from pathlib import Path

import pytest

from analytics_defs.devstack import install
from analytics_defs.errors import StartupFailed


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "analytics-defs"


def _program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_every_missing_tool_is_named_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _program(tmp_path / "bin", "mvn", "true")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(StartupFailed) as caught:
        install.install_servers()
    message = str(caught.value)
    assert "java, 17 or newer" in message
    assert "apt install golang-go" in message
    assert "mvn" not in message
    assert "\n" not in message


def test_cached_servers_need_no_build_tools(tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("kafka-4.3.1", "dynamodb-local-3.1.0", f"minio-{install.MINIO_VERSION}"):
        (empty_cache / name).mkdir(parents=True)
    _program(tmp_path / "bin", "java", "true")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    install.install_servers()


def test_a_build_is_cached_and_not_repeated(tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "test $1 = version && { echo go version go1.24.0 linux/amd64; exit; }"
    _program(tmp_path / "bin", "go", f'{script}; echo built >> "$XDG_CACHE_HOME/builds"; echo binary > "$GOBIN/minio"')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    first, second = install.minio_binary(), install.minio_binary()
    assert first == second == empty_cache / f"minio-{install.MINIO_VERSION}" / "minio"
    assert first.read_text() == "binary\n"
    assert (empty_cache.parent / "builds").read_text() == "built\n"


def test_a_go_that_is_too_old_downloads_a_newer_one_that_compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _program(tmp_path / "fetched" / "bin", "go", 'echo "$2 by the new compiler" > "$GOBIN/minio"')
    (tmp_path / "fetched" / "bin" / "go").chmod(0o644)
    script = "test $1 = version && { echo go version go1.19.8 linux/amd64; exit; }"
    _program(tmp_path / "bin", "go", f'{script}; echo \'{{"Dir": "{tmp_path / "fetched"}"}}\'')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    assert install.minio_binary().read_text() == "-v by the new compiler\n"


def test_a_failed_build_shows_its_output_and_leaves_no_incomplete_files(
    tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _program(tmp_path / "bin", "mvn", "echo the network is down; exit 3")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    with pytest.raises(StartupFailed, match="the network is down"):
        install.kafka_jars()
    assert [path.name for path in empty_cache.iterdir()] == ["lock"]
