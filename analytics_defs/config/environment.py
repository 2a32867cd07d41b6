"""Reads the environment, and says what is wrong in it: everything at once, by name, value and what is allowed."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from pydantic import ValidationError

from analytics_defs.config.settings import Settings
from analytics_defs.config.settings_table import format_default, setting_names
from analytics_defs.core.events.schema import EVENT_TYPES
from analytics_defs.errors import SettingsError

_SECRET = re.compile("secret|password")
_LOGIN = re.compile(r"//[^/@\s]*@")


def load_settings() -> Settings:
    """The settings of this process's environment. Raises SettingsError, one line for each problem."""
    problems: list[str] = []
    try:
        settings = Settings()
    except ValidationError as error:
        problems = [*_in_words(error), *_misfits_beside(error)]
        settings = None
    problems += _near_misses()
    if problems or settings is None:
        raise SettingsError("\n".join(problems))
    return settings


def has_dagster_instance() -> bool:
    """Whether this process is told where Dagster's instance is. Dagster reads the rest itself."""
    return bool(os.environ.get("DAGSTER_HOME"))


def topics_at_load() -> tuple[str, ...]:
    """The topics to draw as assets. Wrong settings do not keep definitions from loading: the sensor's tick reports them."""
    try:
        return load_settings().kafka_topics
    except SettingsError:
        return EVENT_TYPES


def run_health_in_dagster_at_load() -> bool:
    try:
        return load_settings().run_health_in_dagster
    except SettingsError:
        return False


def is_retention_enabled_at_load() -> bool:
    """Whether a setting says that anything of the archive goes, some day."""
    try:
        return bool(load_settings().retention_policy())
    except SettingsError:
        return False


def partitions_start_at_load() -> str:
    try:
        return load_settings().partitions_start
    except SettingsError:
        return str(Settings.model_fields["partitions_start"].default)


def _in_words(error: ValidationError) -> Iterator[str]:
    """Secrets are named, never shown; what was expected comes from the check that failed, and from the setting's description."""
    for problem in error.errors(include_url=False):
        if not problem["loc"]:
            yield str(problem["ctx"]["error"])
            continue
        field = str(problem["loc"][0])
        value = "(secret)" if _SECRET.search(field) else _LOGIN.sub("//(secret)@", os.environ.get(field.upper(), str(problem["input"])))
        expected = _expected(problem)
        for start, shorter in _WORDS.items():
            expected = expected.replace(start, shorter)
        yield f"{field.upper()}={value}: expected {expected} ({Settings.model_fields[field].description})"


def _expected(problem: Mapping[str, Any]) -> str:
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    bounds = {"greater_than_equal": ("at least", "ge"), "greater_than": ("above", "gt"), "less_than_equal": ("at most", "le")}
    words, name = bounds.get(problem["type"], ("", ""))
    # pydantic tells the bound of a duration in microseconds, as text
    info = Settings.model_fields[str(problem["loc"][0])]
    found = [getattr(each, name) for each in info.metadata if words and hasattr(each, name)]
    bound = next((each for each in found if isinstance(each, timedelta)), found[0] if found else None)
    return problem["msg"] if bound is None else f"{words} {format_default(bound).strip('`')}"


_WORDS = {"Input should be ": "", "String should ": "to ", ", unable to parse string as an integer": "", ", unable to interpret input": ""}
"""Of pydantic's sentences, so that they go on from `expected`."""


def _misfits_beside(error: ValidationError) -> Iterator[str]:
    """What does not fit together although each is right: looked at with defaults in the place of what is wrong by itself."""
    wrong = {str(problem["loc"][0]) for problem in error.errors() if problem["loc"]}
    if wrong:
        try:
            Settings(**{field: Settings.model_fields[field].default for field in wrong})
        except ValidationError as another:
            yield from _in_words(another)


def _near_misses() -> Iterator[str]:
    """Names that look like one of ours and are not: a setting that silently does nothing is the worst kind."""
    known = setting_names()
    for name in sorted(os.environ.keys() - known.keys() - _OTHERS):
        close = [each for each in difflib.get_close_matches(name, known, n=1, cutoff=0.9) if not os.environ.get(each)]
        if meant := [each for each in known if _one_slip(name, each)] or close:
            yield f"{name} is not a setting: did you mean {meant[0]}?"


_OTHERS = frozenset({"LINES"})
"""Set by shells and terminals, and one letter away from one of ours."""


def _one_slip(one: str, other: str) -> bool:
    """Whether one letter missing, too many or wrong, or two that changed places, make one of the other."""
    start = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    left, right = one[start:], other[start:]
    swapped = left[:2] == right[:2][::-1] and left[2:] == right[2:]
    return swapped or left[1:] == right or left == right[1:] or left[1:] == right[1:]
