"""The deployment files, parsed as Docker and Compose parse them, and their commands adapted to this machine."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
VENV = Path(sys.executable).parent
"""The local counterpart of /opt/venv/bin in the image."""

_VARIABLE = re.compile(r"\$(?:\{(?P<name>\w+):-(?P<default>[^${}]*)\}|(?P<dollar>\$)|(?P<unsupported>.?))")


def compose(variables: Mapping[str, str]) -> dict[str, Any]:
    """Return docker-compose.yml with `${NAME:-default}` substituted. Raise ValueError for any other form of `$`."""
    return dict(_substituted(yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8")), variables))


def _substituted(node: Any, variables: Mapping[str, str]) -> Any:
    match node:
        case dict():
            return {key: _substituted(value, variables) for key, value in node.items()}
        case list():
            return [_substituted(value, variables) for value in node]
        case str():
            return _VARIABLE.sub(lambda match: _value(match, variables), node)
        case _:
            return node


def _value(match: re.Match[str], variables: Mapping[str, str]) -> str:
    if match["unsupported"] is not None:
        raise ValueError(f"only ${{NAME:-default}} is supported, found {match.string!r}")
    return "$" if match["dollar"] else variables.get(match["name"]) or match["default"]


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """Instructions of the last stage of the Dockerfile, and some of all stages."""

    copied: tuple[str, ...]
    """Sources of every COPY from the build context, relative to it."""
    environment: Mapping[str, str]
    command: tuple[str, ...]
    health_check: str
    user: str
    stages: tuple[str, ...]
    installs: tuple[str, ...]
    """RUN instructions of all stages."""


def dockerfile() -> Dockerfile:
    instructions = _instructions((ROOT / "Dockerfile").read_text(encoding="utf-8"))
    last_stage = max(position for position, (name, _) in enumerate(instructions) if name == "FROM")
    last = dict(instructions[last_stage:])
    words = [rest.split() for name, rest in instructions if name == "COPY" and "--from" not in rest]
    return Dockerfile(
        copied=tuple(source for arguments in words for source in arguments[:-1]),
        environment=dict(re.findall(r"(\w+)=(\S+)", last["ENV"])),
        command=tuple(json.loads(last["CMD"])),
        health_check=last["HEALTHCHECK"].partition("CMD ")[2].strip(),
        user=last["USER"],
        stages=tuple(rest for name, rest in instructions if name == "FROM"),
        installs=tuple(rest for name, rest in instructions if name == "RUN"),
    )


def _instructions(text: str) -> list[tuple[str, str]]:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    whole = "\n".join(lines).replace("\\\n", " ")
    return [(name, re.sub(r" {2,}", " ", rest)) for name, _, rest in (line.partition(" ") for line in whole.splitlines())]


def localized(text: str, addresses: Mapping[str, str]) -> str:
    """Replace hosts, ports and paths of the containers by their local counterparts, in one pass, whole words only."""
    names = "|".join(re.escape(name) for name in sorted(addresses, key=len, reverse=True))
    return re.sub(rf"(?<![\w.-])(?:{names})(?![\w-])", lambda match: addresses[match[0]], text)


def environment_of_dagster(*files: str) -> set[str]:
    """Return every environment variable that the files read. Default: the production dagster.yaml and workspace.yaml."""
    names = files or ("dagster.yaml", "workspace.yaml")
    return {variable for file in names for variable in re.findall(r"\{env: (\w+)\}", (DEPLOY / file).read_text("utf-8"))}
