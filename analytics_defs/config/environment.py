"""Loading of the settings from the environment. Reports all problems at once: name, value and what is allowed."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from pydantic import ValidationError

from analytics_defs.config.settings import Settings
from analytics_defs.config.settings_table import format_value, setting_names
from analytics_defs.core.events.schema import EVENT_TYPES
from analytics_defs.errors import SettingsError

_SECRET = re.compile("secret|password")
_LOGIN = re.compile(r"//[^/@\s]*@")


def load_settings() -> Settings:
    """Return the settings of this process's environment. Raise SettingsError with one line for each problem."""
    problems: list[str] = []
    try:
        settings = Settings()
    except ValidationError as error:
        problems = [*_messages(error), *_conflicts_besides(error)]
        settings = None
    problems += _misspelled_names()
    if problems or settings is None:
        raise SettingsError("\n".join(problems))
    return settings


def has_dagster_instance() -> bool:
    """Return whether DAGSTER_HOME is set. Dagster itself reads everything else about its instance."""
    return bool(os.environ.get("DAGSTER_HOME"))


def topics_at_load() -> tuple[str, ...]:
    """Return the topics that are shown as assets.

    Invalid settings do not prevent the definitions from loading. The tick of the sensor reports them.
    """
    try:
        return load_settings().kafka_topics
    except SettingsError:
        return EVENT_TYPES


def run_health_in_dagster_at_load() -> bool:
    """Return RUN_HEALTH_IN_DAGSTER, or False if the settings are invalid."""
    try:
        return load_settings().run_health_in_dagster
    except SettingsError:
        return False


def is_retention_enabled_at_load() -> bool:
    """Return whether any retention of archived data is set, or False if the settings are invalid."""
    try:
        return bool(load_settings().retention_policy())
    except SettingsError:
        return False


def partitions_start_at_load() -> str:
    """Return PARTITIONS_START, or its default if the settings are invalid."""
    try:
        return load_settings().partitions_start
    except SettingsError:
        return str(Settings.model_fields["partitions_start"].default)


def _messages(error: ValidationError) -> Iterator[str]:
    """Yield one line for each problem. The value of a secret is never shown.

    The expected value comes from the check that failed and from the description of the setting.
    """
    for problem in error.errors(include_url=False):
        if not problem["loc"]:
            yield str(problem["ctx"]["error"])
            continue
        field = str(problem["loc"][0])
        value = "(secret)" if _SECRET.search(field) else _LOGIN.sub("//(secret)@", os.environ.get(field.upper(), str(problem["input"])))
        expected = _expected(problem)
        for phrase, replacement in _PYDANTIC_PHRASES.items():
            expected = expected.replace(phrase, replacement)
        yield f"{field.upper()}={value}: expected {expected} ({Settings.model_fields[field].description})"


def _expected(problem: Mapping[str, Any]) -> str:
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    bounds = {"greater_than_equal": ("at least", "ge"), "greater_than": ("above", "gt"), "less_than_equal": ("at most", "le")}
    words, name = bounds.get(problem["type"], ("", ""))
    # pydantic's message gives the bound of a duration in microseconds.
    info = Settings.model_fields[str(problem["loc"][0])]
    limits = [getattr(item, name) for item in info.metadata if words and hasattr(item, name)]
    bound = next((limit for limit in limits if isinstance(limit, timedelta)), limits[0] if limits else None)
    return problem["msg"] if bound is None else f"{words} {format_value(bound).strip('`')}"


_PYDANTIC_PHRASES = {
    "Input should be ": "",
    "String should ": "to ",
    ", unable to parse string as an integer": "",
    ", unable to interpret input": "",
}
"""Replacements that make a message of pydantic continue a sentence after `expected`."""


def _conflicts_besides(error: ValidationError) -> Iterator[str]:
    """Yield the conflicts between settings. Each setting that is invalid by itself is replaced by its default first."""
    invalid = {str(problem["loc"][0]) for problem in error.errors() if problem["loc"]}
    if invalid:
        try:
            Settings(**{field: Settings.model_fields[field].default for field in invalid})
        except ValidationError as conflicts:
            yield from _messages(conflicts)


def _misspelled_names() -> Iterator[str]:
    """Yield a message for each variable that resembles a setting: otherwise a misspelled setting would be
    ignored silently.
    """
    known = setting_names()
    for name in sorted(os.environ.keys() - known.keys() - _UNRELATED_NAMES):
        similar = [other for other in difflib.get_close_matches(name, known, n=1, cutoff=0.9) if not os.environ.get(other)]
        if candidates := [other for other in known if _is_one_edit_apart(name, other)] or similar:
            yield f"{name} is not a setting: did you mean {candidates[0]}?"


_UNRELATED_NAMES = frozenset({"LINES"})
"""Variables of shells and terminals that are one letter away from a setting."""


def _is_one_edit_apart(first: str, second: str) -> bool:
    """Return whether one inserted, missing, wrong or swapped letter turns one name into the other."""
    start = next((index for index, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second)))
    left, right = first[start:], second[start:]
    swapped = left[:2] == right[:2][::-1] and left[2:] == right[2:]
    return swapped or left[1:] == right or left == right[1:] or left[1:] == right[1:]
