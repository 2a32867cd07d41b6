"""The README says what is so."""

from __future__ import annotations

import re
from pathlib import Path

from click.testing import CliRunner

from analytics_defs.cli.commands import analytics
from analytics_defs.config import table

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_table_of_settings_is_that_of_the_class() -> None:
    found = README.partition("<!-- settings -->\n")[2].partition("\n<!-- /settings -->")[0]
    assert found == table(), "replace it by the output of: python -c 'from analytics_defs.config import table; print(table())'"


def test_every_command_it_names_exists() -> None:
    named = set(re.findall(r"`?analytics ([a-z-]+)", README)) - {"platform"}
    assert named <= set(analytics.commands), named - set(analytics.commands)


def test_every_make_target_it_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"`make ([a-z-]+)`", README))
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets), targets


def test_every_file_it_links_exists() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_command_explains_itself() -> None:
    for name, command in analytics.commands.items():
        shown = CliRunner().invoke(analytics, [name, "--help"])
        assert shown.exit_code == 0
        assert command.help, name
