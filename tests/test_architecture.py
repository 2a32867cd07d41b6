"""The import law, and who may read the environment. Held by reading the source, so that nobody has to remember it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import analytics_defs

PACKAGE = Path(analytics_defs.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

CORE = {"core", "errors"}
FLOWS = CORE | {"ports", "flows"}
LAW: dict[str, tuple[set[str], set[str]]] = {
    "errors": (set(), set()),
    "core": (CORE, {"pyarrow", "pydantic", "pydantic_core"}),
    "ports": (CORE, set()),
    "flows": (FLOWS, set()),
    "adapters": (
        CORE | {"ports", "adapters"},
        {
            *("boto3", "botocore", "confluent_kafka", "duckdb", "matplotlib", "obstore", "pyarrow", "tenacity"),
            *("mypy_boto3_dynamodb", "mypy_boto3_s3"),
        },
    ),
    "config": (CORE | {"config"}, {"pydantic", "pydantic_settings"}),
    "web": (FLOWS | {"web"}, {"jinja2", "prometheus_client", "starlette", "uvicorn"}),
    "wiring": (FLOWS | {"adapters", "config", "web"}, {"pydantic"}),
}
"""Which parts of the package, and which third parties, each part may import."""

DOES_IO = {"asyncio", "http", "multiprocessing", "os", "pathlib", "shutil", "signal", "socket", "sqlite3", "ssl", "subprocess", "tempfile"}


def part(module: Path) -> str:
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(module: Path) -> Iterator[str]:
    """Full names of everything the module imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: relative import"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def of(*parts: str) -> list[Path]:
    return [each for each in MODULES if part(each) in parts]


def test_every_part_imports_only_what_the_law_allows() -> None:
    broken = []
    for module in of(*LAW):
        own, third_parties = LAW[part(module)]
        for name in imports(module):
            top, _, rest = name.partition(".")
            ours = top == "analytics_defs" and rest.partition(".")[0] in own
            if not ours and top not in sys.stdlib_module_names | third_parties:
                broken.append(f"{module} imports {name}")
    assert broken == []


def test_core_and_flows_do_no_io_of_their_own() -> None:
    modules = of("errors", "core", "ports", "flows")
    found = {(str(module), name) for module in modules for name in imports(module)}
    assert {(module, name) for module, name in found if name.partition(".")[0] in DOES_IO or name.startswith("urllib.request")} == set()


def test_only_the_definitions_import_dagster() -> None:
    elsewhere = set(MODULES) - set(of("defs", "definitions"))
    assert [module for module in elsewhere if any(name.startswith("dagster") for name in imports(module))] == []


def test_only_the_settings_read_the_environment() -> None:
    """`local` may: it hands an environment on to the processes it starts."""
    readers = []
    for module in set(MODULES) - set(of("config", "local")):
        nodes = list(ast.walk(ast.parse(module.read_text())))
        attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        if attributes & {"environ", "environb", "getenv"} or {"os.environ", "os.getenv"} & set(imports(module)):
            readers.append(module)
    assert readers == []


def test_every_module_says_what_it_is_for() -> None:
    texts = {module: module.read_text() for module in MODULES}
    assert [module for module, text in texts.items() if text and not ast.get_docstring(ast.parse(text))] == []


def test_flows_load_without_any_sdk() -> None:
    """A run's start is paid on every batch; pyarrow comes with the first file."""
    flows = [".".join(each.relative_to(PACKAGE.parent).with_suffix("").parts) for each in of("flows")]
    heavy = ["pyarrow", "boto3", "obstore", "confluent_kafka", "dagster"]
    code = f"import sys, {', '.join(flows)}; print([each for each in {heavy} if each in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout.strip() == "[]"
