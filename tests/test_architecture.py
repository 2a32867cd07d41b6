"""The import law, checked by reading the source. Each rule is also shown to find a violation that is planted for it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

import analytics_defs

MAX_MODULES = 15
CORE = {"core", "errors"}
FLOWS = CORE | {"ports", "flows"}
LAW: dict[str, tuple[set[str], set[str]]] = {
    "errors": (set(), set()),
    "core": (CORE, {"pyarrow", "pydantic", "pydantic_core"}),
    "ports": (CORE | {"ports"}, set()),
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
    "simulator": (CORE | {"simulator"}, set()),
    "wiring": (FLOWS | {"adapters", "config", "web"}, {"pydantic"}),
}
"""For each part of the package: the parts and the third parties that it may import, at the top, in functions and for types."""

IO_MODULES = {
    "asyncio",
    "http",
    "multiprocessing",
    "os",
    "pathlib",
    "shutil",
    "signal",
    "socket",
    "sqlite3",
    "ssl",
    "subprocess",
    "tempfile",
}


@dataclass(frozen=True)
class Package:
    """The source of a package, by dotted module name."""

    sources: Mapping[str, str]

    @classmethod
    def installed(cls) -> Package:
        root = Path(analytics_defs.__file__).parent
        names = {path: ".".join(path.relative_to(root.parent).with_suffix("").parts) for path in root.rglob("*.py")}
        return cls({name.removesuffix(".__init__"): path.read_text(encoding="utf-8") for path, name in sorted(names.items())})

    def part(self, module: str) -> str:
        return module.split(".")[1] if "." in module else ""

    def modules(self, *parts: str) -> list[str]:
        return [module for module in self.sources if self.part(module) in parts]

    def imports(self, module: str) -> Iterator[str]:
        """Yield full names of everything that the module imports."""
        for node in ast.walk(ast.parse(self.sources[module])):
            if isinstance(node, ast.Import):
                yield from (name.name for name in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{module}: relative import"
                yield from (f"{node.module}.{name.name}" for name in node.names)

    def imported_modules(self, module: str) -> set[str]:
        """Return the modules of this package that the module imports."""
        names = {name if name in self.sources else name.rpartition(".")[0] for name in self.imports(module)}
        return {name for name in names if name in self.sources and name != module}


def forbidden_imports(package: Package) -> Iterator[str]:
    for module in package.modules(*LAW):
        parts, third_parties = LAW[package.part(module)]
        for name in package.imports(module):
            top, _, rest = name.partition(".")
            is_own = top == "analytics_defs" and rest.partition(".")[0] in parts
            if not is_own and top not in sys.stdlib_module_names | third_parties:
                yield f"{module} imports {name}"


def io_in_pure_parts(package: Package) -> Iterator[str]:
    for module in package.modules("errors", "core", "ports", "flows"):
        for name in package.imports(module):
            if name.partition(".")[0] in IO_MODULES or name.startswith("urllib.request"):
                yield f"{module} imports {name}"


def dagster_outside_defs(package: Package) -> Iterator[str]:
    for module in set(package.sources) - set(package.modules("defs", "definitions")):
        yield from (f"{module} imports {name}" for name in package.imports(module) if name.startswith("dagster"))


def environment_readers(package: Package) -> Iterator[str]:
    """`devstack` may read it: it passes its environment to the processes that it starts."""
    for module in set(package.sources) - set(package.modules("config", "devstack")):
        attributes = {node.attr for node in ast.walk(ast.parse(package.sources[module])) if isinstance(node, ast.Attribute)}
        if attributes & {"environ", "environb", "getenv"} or {"os.environ", "os.getenv"} & set(package.imports(module)):
            yield f"{module} reads the environment"


def modules_without_docstring(package: Package) -> Iterator[str]:
    for module, source in package.sources.items():
        if source and not ast.get_docstring(ast.parse(source)):
            yield f"{module} has no docstring"


def import_circles(package: Package) -> Iterator[str]:
    """Also those by imports in functions and under TYPE_CHECKING. `ports/__init__.py` and its like count as modules."""
    graph = {module: package.imported_modules(module) for module in package.sources}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> Iterator[str]:
        if module in path:
            yield " -> ".join((*path[path.index(module) :], module))
        elif module not in done:
            for imported in sorted(graph[module]):
                yield from visit(imported, (*path, module))
            done.add(module)

    for module in graph:
        yield from visit(module, ())


def crowded_folders(package: Package) -> Iterator[str]:
    folders: dict[str, int] = {}
    for module in package.sources:
        if not any(other.startswith(f"{module}.") for other in package.sources):
            folders[module.rpartition(".")[0]] = folders.get(module.rpartition(".")[0], 0) + 1
    yield from (f"{folder} has {count} modules" for folder, count in folders.items() if count > MAX_MODULES)


Rule = Callable[[Package], Iterator[str]]
VIOLATIONS: dict[Rule, Mapping[str, str]] = {
    forbidden_imports: {"analytics_defs.flows.bad": "from analytics_defs.adapters.dynamodb.ledger_keys import item_key"},
    io_in_pure_parts: {"analytics_defs.core.bad": "import socket"},
    dagster_outside_defs: {"analytics_defs.web.bad": "import dagster"},
    environment_readers: {"analytics_defs.cli.bad": "import os\nprint(os.environ)"},
    modules_without_docstring: {"analytics_defs.core.bad": "X = 1"},
    import_circles: {
        "analytics_defs.core.one": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from analytics_defs.core.two import B",
        "analytics_defs.core.two": "def f():\n    from analytics_defs.core.one import A",
    },
    crowded_folders: {f"analytics_defs.core.module_{number}": '"""A module."""' for number in range(MAX_MODULES + 1)},
}


@pytest.mark.parametrize("rule", VIOLATIONS, ids=lambda rule: rule.__name__)
def test_the_package_keeps_the_rule(rule: Rule) -> None:
    assert list(rule(Package.installed())) == []


@pytest.mark.parametrize(("rule", "planted"), VIOLATIONS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_the_rule_finds_a_planted_violation(rule: Rule, planted: Mapping[str, str]) -> None:
    assert list(rule(Package(planted)))


def test_flows_load_without_any_sdk() -> None:
    """The start of a run is paid on every batch. pyarrow is loaded with the first file."""
    flows = Package.installed().modules("flows")
    heavy = ["pyarrow", "boto3", "obstore", "confluent_kafka", "dagster"]
    code = f"import sys, {', '.join(flows)}; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout.strip() == "[]"
