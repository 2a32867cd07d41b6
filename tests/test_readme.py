"""The README, and the pages of docs that it leads to, say what is so."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import boto3
import graphql
import pyarrow as pa
import pyarrow.parquet as pq
from click.testing import CliRunner
from dagster_graphql.schema import create_schema

from analytics_defs.cli.app import analytics
from analytics_defs.config import settings_table
from analytics_defs.core.events.schema import EVENT_TYPES
from analytics_defs.core.storage.object_keys import manifest_key, parquet_dir
from analytics_defs.definitions import defs
from analytics_defs.devstack import env_file
from analytics_defs.simulator.publisher import simulated_records
from analytics_defs.simulator.shop import DEFAULT_MIX
from tests.devstack.waiting import until

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = {path: path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
TEXT = "\n".join(PAGES.values())


def test_the_table_of_settings_is_generated_from_the_class() -> None:
    page = PAGES[ROOT / "docs/settings.md"]
    generated = page.partition("<!-- settings -->\n")[2].partition("\n<!-- /settings -->")[0]
    command = "from analytics_defs.config import settings_table; print(settings_table())"
    assert generated == settings_table(), f"replace the tables by the output of: python -c '{command}'"


def test_the_example_for_pandas_reads_an_hour_from_the_servers_of_make_dev(tmp_path: Path) -> None:
    [example] = re.findall(r"^(?:    .*\n)*    print\(pandas\.read_parquet\(.*\n", TEXT, re.MULTILINE)
    with subprocess.Popen([sys.executable, "-m", "analytics_defs.devstack", "stores", str(tmp_path / "env")]) as stores:
        try:
            until((tmp_path / "env").exists)
            settings = env_file.read_env_file(tmp_path / "env")
            put_an_hour(settings)
            clean = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MINIO_"))}
            command = [sys.executable, "-c", textwrap.dedent(example)]
            found = subprocess.run(command, env=clean | settings, capture_output=True, text=True, check=False, timeout=60)
        finally:
            stores.terminate()
    assert "ProductDeleted" in found.stdout, found.stderr


def put_an_hour(settings: Mapping[str, str]) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=settings["MINIO_ENDPOINT"],
        region_name="us-east-1",
        aws_access_key_id=settings["MINIO_ACCESS_KEY"],
        aws_secret_access_key=settings["MINIO_SECRET_KEY"],
    )
    client.create_bucket(Bucket="event-archive")
    written = io.BytesIO()
    pq.write_table(pa.table({"event_type": ["ProductDeleted"]}), written)
    client.put_object(Bucket="event-archive", Key=f"{parquet_dir('2024-01-15T10')}archive-1.parquet", Body=written.getvalue())
    client.put_object(Bucket="event-archive", Key=manifest_key("2024-01-15T10"), Body=b"{}")


def test_its_graphql_is_what_dagster_understands() -> None:
    section = PAGES[ROOT / "docs/hours.md"].partition("## Backfill over GraphQL\n")[2].partition("\n## ")[0]
    requests = [textwrap.dedent(block) for block in section.split("\n\n") if block.startswith("    ")]
    schema = create_schema().graphql_schema
    assert [len(requests), *(error.message for each in requests for error in graphql.validate(schema, graphql.parse(each)))] == [3]


def test_the_example_of_a_redrive_makes_the_only_record_that_is_too_large() -> None:
    limit = int(re.findall(r"`MAX_EVENT_BYTES=(\d+) make dev`", TEXT)[0])
    size = int(re.findall(r'"p" \* (\d+)', TEXT)[0])
    shop = (len(each[2] or b"") for each in islice(simulated_records(1, DEFAULT_MIX, EVENT_TYPES), 20_000))
    assert max(shop) < limit < size


def test_every_command_that_is_named_exists() -> None:
    named = set(re.findall(r"`?analytics ([a-z-]+)", TEXT)) - {"platform"}
    assert named <= set(analytics.commands), named - set(analytics.commands)


def test_every_make_target_that_is_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"`make ([a-z-]+)`", TEXT))
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets), targets


def test_every_schedule_is_in_its_table() -> None:
    named = {each.name for each in defs.schedules or ()}
    assert [name for name in sorted(named) if f"schedule `{name}`" not in TEXT] == []


def test_every_link_leads_to_a_file_that_exists_and_to_a_heading_in_it() -> None:
    assert [f"{page.name}: {link}" for page in PAGES for link in links(page) if not leads_somewhere(page, link)] == []


def test_the_readme_leads_to_every_page_and_every_picture_is_shown() -> None:
    led_to = {(ROOT / link.partition("#")[0]).resolve() for link in links(ROOT / "README.md")}
    assert [page.name for page in PAGES if page.parent != ROOT and page not in led_to] == []
    shown = {(page.parent / link).resolve() for page in PAGES for link in links(page)}
    assert [picture.name for picture in sorted((ROOT / "docs/pictures").iterdir()) if picture not in shown] == []


def links(page: Path) -> list[str]:
    return [link for link in re.findall(r"\]\(([^)]+)\)", PAGES[page]) if "://" not in link]


def leads_somewhere(page: Path, link: str) -> bool:
    path, _, heading = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    return target.exists() and (not heading or heading in map(slug, re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)))


def slug(heading: str) -> str:
    """As GitHub makes it of a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_every_command_explains_itself() -> None:
    for name, command in analytics.commands.items():
        shown = CliRunner().invoke(analytics, [name, "--help"])
        assert shown.exit_code == 0
        assert command.help, name
