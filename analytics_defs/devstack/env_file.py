"""Files of `KEY=VALUE` lines that a shell can source: `set -a; . .dev/env`."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def write_env_file(path: Path, settings: Mapping[str, str]) -> None:
    """Replace `path` atomically. Values are quoted only if a shell requires it."""
    for key in settings:
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} cannot be the name of an environment variable")
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    draft.write_text("".join(f"{key}={shlex.quote(value)}\n" for key, value in settings.items()), encoding="utf-8")
    draft.replace(path)


def read_env_file(path: Path) -> dict[str, str]:
    """Return the settings of `path` in the order of its lines. Raise ValueError with the number of an invalid line."""
    settings = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key, equals, quoted = line.partition("=")
        words = _words(quoted)
        if not equals or not _KEY.fullmatch(key) or words is None:
            raise ValueError(f"{path}, line {number}: expected KEY=VALUE, found {line!r}")
        settings[key] = words
    return settings


def _words(quoted: str) -> str | None:
    """Return the value that a shell assigns for the text after `=`, or None for several words or an open quote."""
    try:
        words = shlex.split(quoted)
    except ValueError:
        return None
    return "".join(words) if len(words) <= 1 else None
