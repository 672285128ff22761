"""The dependency rules of docs/architecture.md, executed."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVICES = ROOT / "services"
NAMES = ("auth", "agent", "inference", "sandbox")
PURE = {
    "services.common.errors",
    "services.common.patterns",
    "services.common.policy",
    "services.common.prompts",
    "services.common.restarts",
}
IMPURE = {"asyncio", "logging", "os", "random", "socket", "subprocess", "threading", "time"}
# What a service must not load: each of these costs tens of megabytes or seconds.
HEAVY = {
    "langchain": "agent",
    "langchain_core": "agent",
    "langchain_ollama": "agent",
    "langgraph": "agent",
    "mcp": "agent",
}


def imports(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).glob("**/*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


CORES = [
    *sorted(SERVICES.glob("*/core/**/*.py")),
    *(ROOT / f"{name.replace('.', '/')}.py" for name in sorted(PURE)),
]


@pytest.mark.parametrize("path", CORES, ids=name_of)
def test_core_is_pure(path: Path) -> None:
    own = f"services.{path.relative_to(SERVICES).parts[0]}"
    for module in imports(path):
        if module.startswith("services."):
            assert module in PURE or module.startswith((f"{own}.core", f"{own}.errors"))
        else:
            assert module.split(".")[0] in sys.stdlib_module_names - IMPURE, module


@pytest.mark.parametrize("path", sources("services"), ids=name_of)
def test_services_meet_only_over_grpc(path: Path) -> None:
    own = path.relative_to(SERVICES).parts[0]
    for module in imports(path):
        package, *rest = module.split(".")
        assert package not in {"clients", "deploy", "tests", "tools"}, module
        if package == "services" and rest and rest[0] in NAMES:
            assert rest[0] == own, f"{own} imports {module}"


@pytest.mark.parametrize("path", sources("services"), ids=name_of)
def test_heavy_libraries_stay_in_their_service(path: Path) -> None:
    own = path.relative_to(SERVICES).parts[0]
    for module in imports(path):
        assert HEAVY.get(module.split(".")[0], own) == own, f"{own} imports {module}"


@pytest.mark.parametrize("path", sources("services"), ids=name_of)
def test_only_adapters_know_third_parties_that_hold_state(path: Path) -> None:
    drivers = {"asyncpg", "redis", "httptools", "argon2", "langchain", "langgraph", "langchain_core"}
    parts = path.relative_to(SERVICES).parts
    if parts[0] in NAMES and parts[1] not in {"adapters", "app.py"}:
        assert not {module.split(".")[0] for module in imports(path)} & drivers


@pytest.mark.parametrize("path", sources("clients/python"), ids=name_of)
def test_the_client_needs_only_the_stubs(path: Path) -> None:
    for module in imports(path):
        assert module.split(".")[0] not in {"services", "deploy", "tests", "clients"}, module
