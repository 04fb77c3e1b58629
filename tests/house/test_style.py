"""The size limits of the house, and what must not be in the tree. Written down once, checked here."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70
PARAMETERS_MAX = 6
NAMES_TOO_VAGUE = {"utils", "util", "common", "helpers", "helper", "manager", "misc"}
PARENT = ".." + "/shared"
HOMES = re.compile(r"(?<![\w.:/])/(?:home|root|Users|work)/\w+")
TEXT = {".py", ".md", ".toml", ".txt", ".json", ".yaml", ".yml", ".html", ".js", ".css", ".cfg", ""}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def modules(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def functions(path: Path) -> Iterator[Function]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def tree_files() -> list[Path]:
    """What belongs to the project: what git knows or would add; without git, all but the ignored folders."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode == 0 and listed.stdout:
        return [path for line in listed.stdout.splitlines() if (path := ROOT / line).is_file()]
    return [path for path in ROOT.rglob("*") if path.is_file() and not ({".venv", ".git"} & set(path.parts))]


def where(path: Path, node: ast.AST | None = None) -> str:
    name = str(path.relative_to(ROOT))
    return name if node is None else f"{name}:{getattr(node, 'lineno', 0)}"


def excused(path: Path, node: Function) -> bool:
    """Compiled loops take arrays one by one; ruff asks for the same limit, and for a reason beside the exception."""
    return "noqa: PLR0913" in path.read_text().splitlines()[node.lineno - 1]


def parameters(function: Function) -> int:
    names = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return len([name for name in names if name.arg not in ("self", "cls")])


def test_there_is_something_to_check() -> None:
    assert len(modules("rta")) > 40
    assert len(tree_files()) > 60


def test_modules_are_short() -> None:
    sizes = {path: path.read_text().count("\n") for path in modules("rta", "benchmarks")}
    assert {where(path): lines for path, lines in sizes.items() if lines > MODULE_LINES_MAX} == {}


def test_functions_are_short() -> None:
    found = {
        f"{where(path, node)} {node.name}": (node.end_lineno or 0) - node.lineno
        for path in modules("rta", "benchmarks")
        for node in functions(path)
    }
    assert {name: lines for name, lines in found.items() if lines > FUNCTION_LINES_MAX} == {}


def test_functions_take_few_parameters() -> None:
    found = {
        f"{where(path, node)} {node.name}": parameters(node)
        for path in modules("rta", "benchmarks")
        for node in functions(path)
        if not excused(path, node)
    }
    assert {name: count for name, count in found.items() if count > PARAMETERS_MAX} == {}


def test_every_module_says_what_it_owns() -> None:
    silent = [
        where(path) for path in modules("rta", "benchmarks") if ast.get_docstring(ast.parse(path.read_text())) is None
    ]
    assert silent == []


def test_names_say_something() -> None:
    assert [where(path) for path in modules("rta") if {path.stem, path.parent.name} & NAMES_TOO_VAGUE] == []


def test_nothing_is_unfinished() -> None:
    words = re.compile(r"\bNotImplemented" + r"Error\b|" + "TO" + "DO|FIX" + r"ME|\bX{3}\b")
    found = [
        f"{where(path)}:{number}"
        for path in modules("rta", "tests", "benchmarks")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if words.search(line)
    ]
    assert found == []


def test_exceptions_to_the_linters_have_a_reason() -> None:
    bare = re.compile(r"#\s*(noqa(:\s*[A-Z0-9, ]+)?|type:\s*ignore(\[[\w, -]+\])?)\s*$")
    found = [
        f"{where(path)}:{number}"
        for path in modules("rta", "tests", "benchmarks")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if bare.search(line)
    ]
    assert found == []


def test_no_exception_is_swallowed_unnamed() -> None:
    bare = [
        where(path, node)
        for path in modules("rta", "benchmarks")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ExceptHandler) and node.type is None
    ]
    assert bare == []


def test_only_the_settings_read_the_environment() -> None:
    """But for `launch`, which hands Ray and the engines their variables that way."""
    reading = re.compile(r"os\.getenv|os\.environ(\.get\(|\[[^\]]+\](?!\s*=))")
    found = [
        f"{where(path)}:{number}"
        for path in modules("rta")
        if path not in (ROOT / "rta" / "config.py", ROOT / "rta" / "launch.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if reading.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("forbidden", ["skip", "skipif", "xfail", "importorskip"])
def test_tests_fail_instead_of_being_skipped(forbidden: str) -> None:
    found = [
        where(path, node)
        for path in modules("tests")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == forbidden
    ]
    assert found == []


def test_tests_wait_for_conditions_instead_of_sleeping() -> None:
    found = [
        where(path, node)
        for path in modules("tests")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "sleep" and ast.unparse(node.value) == "time"
    ]
    assert found == []


def test_the_tree_stands_on_its_own() -> None:
    found = []
    for path in tree_files():
        if path.suffix not in TEXT:
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if PARENT in line or HOMES.search(line):
                found.append(f"{where(path)}:{number}: {line.strip()[:80]}")
    assert found == []
