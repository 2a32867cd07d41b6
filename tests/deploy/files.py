"""The deployment's files, read the way Docker and Compose read them, and their commands made to fit this machine."""

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
"""Where the image has /opt/venv/bin."""

_VARIABLE = re.compile(r"\$(?:\{(?P<name>\w+):-(?P<default>[^${}]*)\}|(?P<dollar>\$)|(?P<odd>.?))")


def compose(variables: Mapping[str, str]) -> dict[str, Any]:
    """docker-compose.yml with its `${NAME:-default}` filled in. Raises ValueError on any other form of `$`."""
    return dict(_filled(yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8")), variables))


def _filled(node: Any, variables: Mapping[str, str]) -> Any:
    match node:
        case dict():
            return {key: _filled(value, variables) for key, value in node.items()}
        case list():
            return [_filled(value, variables) for value in node]
        case str():
            return _VARIABLE.sub(lambda match: _value(match, variables), node)
        case _:
            return node


def _value(match: re.Match[str], variables: Mapping[str, str]) -> str:
    if match["odd"] is not None:
        raise ValueError(f"only ${{NAME:-default}} is used here, found {match.string!r}")
    return "$" if match["dollar"] else variables.get(match["name"]) or match["default"]


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """The instructions of the last stage, and every COPY from the build context."""

    copied: tuple[str, ...]
    """Sources, relative to the context."""
    environment: Mapping[str, str]
    command: tuple[str, ...]
    health_check: str
    user: str
    stages: tuple[str, ...]
    installs: tuple[str, ...]
    """RUN lines of all stages."""


def dockerfile() -> Dockerfile:
    instructions = _instructions((ROOT / "Dockerfile").read_text(encoding="utf-8"))
    last_stage = max(place for place, (name, _) in enumerate(instructions) if name == "FROM")
    last = dict(instructions[last_stage:])
    words = [rest.split() for name, rest in instructions if name == "COPY" and "--from" not in rest]
    return Dockerfile(
        copied=tuple(source for each in words for source in each[:-1]),
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


def here(text: str, places: Mapping[str, str]) -> str:
    """`text` with every name of a place in the containers replaced by the place here, in one pass, whole words only."""
    names = "|".join(re.escape(name) for name in sorted(places, key=len, reverse=True))
    return re.sub(rf"(?<![\w.-])(?:{names})(?![\w-])", lambda match: places[match[0]], text)


def environment_of_dagster(*files: str) -> set[str]:
    """Every variable that these ask for; the production dagster.yaml and workspace.yaml, where none is named."""
    read = files or ("dagster.yaml", "workspace.yaml")
    return {name for file in read for name in re.findall(r"\{env: (\w+)\}", (DEPLOY / file).read_text("utf-8"))}
