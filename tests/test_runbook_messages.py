"""Messages that the runbook quotes are messages of the code."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
VARIABLE = "\0"


@functools.cache
def messages() -> list[str]:
    """Return every text of the package, each formatted value as one VARIABLE."""
    return [text for path in (ROOT / "analytics_defs").rglob("*.py") for text in _texts(path.read_text(encoding="utf-8"))]


def _texts(source: str) -> list[str]:
    tree = ast.parse(source)
    return [_text(node) for node in ast.walk(tree) if isinstance(node, (ast.Constant, ast.JoinedStr)) and _text(node)]


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) if isinstance(part, ast.Constant) else VARIABLE for part in node.values)
    return ""


def quotes() -> list[str]:
    rows = [line.split("|")[1] for line in (ROOT / "docs/runbook.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    return [quote for row in rows for quote in re.findall(r"(?<!\*)\*([^*]+)\*(?!\*)", row)]


@pytest.mark.parametrize("quote", quotes())
def test_the_runbook_quotes_a_message_of_the_code(quote: str) -> None:
    fragments = [fragment for fragment in re.split(r"…|IngestLedger|7", quote) if re.search(r"[a-z]{3}", fragment)]
    pattern = re.compile(".*".join(re.escape(fragment.strip(" ,.:;()")) for fragment in fragments), re.DOTALL)
    assert fragments
    assert any(pattern.search(message) for message in messages()), f"no message of the code has, in this order: {fragments}"
