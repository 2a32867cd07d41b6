from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from analytics_defs.devstack import env_file

AWKWARD = {
    "PLAIN": "http://127.0.0.1:9000",
    "SPACES": "/a folder/b",
    "QUOTES": """it's "quoted" $HOME `id` \\""",
    "EMPTY": "",
    "EQUALS": "a=b#c",
}


def test_written_settings_are_read_back(tmp_path: Path) -> None:
    env_file.write_env_file(tmp_path / "env", AWKWARD)
    assert env_file.read_env_file(tmp_path / "env") == AWKWARD


def test_a_shell_that_sources_the_file_gets_the_same_values(tmp_path: Path) -> None:
    env_file.write_env_file(tmp_path / "env", AWKWARD)
    script = f'set -a; . "{tmp_path}/env"; env -0'
    process = subprocess.run(["/bin/sh", "-c", script], capture_output=True, check=True, env={}, text=True)
    variables = dict(line.split("=", 1) for line in process.stdout.split("\0") if line)
    assert {key: variables[key] for key in AWKWARD} == AWKWARD


def test_comments_and_empty_lines_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "env").write_text("# made by hand\n\nA=1\n")
    assert env_file.read_env_file(tmp_path / "env") == {"A": "1"}


@pytest.mark.parametrize("line", ["no equals sign", "1A=x", "A=two words", "A='open"])
def test_a_line_that_is_not_key_equals_value_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "env").write_text(f"A=1\n{line}\n")
    with pytest.raises(ValueError, match="line 2: expected KEY=VALUE"):
        env_file.read_env_file(tmp_path / "env")


def test_an_invalid_variable_name_is_rejected_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'a-b' cannot be the name"):
        env_file.write_env_file(tmp_path / "env", {"a-b": "1"})
    assert list(tmp_path.iterdir()) == []
