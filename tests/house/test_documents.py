"""The documents say what is there."""

from __future__ import annotations

import gzip
import json
import re
import shlex
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import rta
from rta import cli
from rta.config import SECTIONS, Settings
from rta.demo.play import EDITS, SAMPLE, published_pages
from rta.errors import RtaError

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
CODE = re.compile(r"```(?:sh|bash)\n(.*?)```", re.S)
RTA = re.compile(r"(?:^|[\s|/])rta ([a-z].*)")


def rooms() -> list[str]:
    return sorted(path.name for path in (ROOT / "rta").iterdir() if path.is_dir() and any(path.glob("*.py")))


def commands(text: str) -> list[str]:
    """Lines of the shell blocks, with continued lines put together."""
    blocks = "\n".join(CODE.findall(text)).replace("\\\n", " ")
    lines = (line.partition("  #")[0] for line in blocks.splitlines() if not line.startswith("#"))
    return [line.strip() for line in lines if line.strip()]


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))


def test_the_architecture_names_every_room_and_stays_short() -> None:
    assert len(ARCHITECTURE.splitlines()) <= 150
    assert [room for room in rooms() if f"{room}/" not in ARCHITECTURE] == []
    single = [path.name for path in (ROOT / "rta").glob("*.py") if path.name != "__init__.py"]
    assert [name for name in single if name not in ARCHITECTURE] == []


def test_the_architecture_names_nothing_that_is_not_there() -> None:
    named = set(re.findall(r"\b((?:[a-z_]+/)*[a-z_]+\.py)\b", ARCHITECTURE))
    files = {
        str(path.relative_to(ROOT))
        for folder in ("rta", "tests", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert [
        name for name in sorted(named) if not any(file == name or file.endswith(f"/{name}") for file in files)
    ] == []


def test_the_changelog_has_the_version() -> None:
    assert f"## {rta.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == rta.__version__


def test_the_readme_is_one_screen_to_the_first_answer() -> None:
    before = README.split("/v1/query")[0]
    assert len(before.splitlines()) <= 50
    assert "curl" in README


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_in_the_documents_exist(path: Path) -> None:
    for line in commands(path.read_text()):
        for target in re.findall(r"\bmake ([a-z]+)", line):
            assert target in make_targets(), line
        for rest in RTA.findall(line):
            words = shlex.split(rest.split("|")[0], comments=True)
            options = cli.build_parser().parse_args(words)
            assert callable(options.command), line


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_bodies_in_the_documents_are_json(path: Path) -> None:
    text = path.read_text().replace("'$(date +%s000)'", "1767225600000")
    for body in re.findall(r"-d '(\{.*?\})'(?=\s|$|`)", text, re.S):
        json.loads(body)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_the_documents_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_operations_lists_every_setting_and_its_default() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    names = [name for name in Settings.model_fields if name not in SECTIONS]
    names += [f"{section}.{name}" for section, model in SECTIONS.items() for name in model.model_fields]
    assert [name for name in names if f"| `{name}` |" not in text] == []


def test_operations_says_what_to_do_for_every_error() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    codes = {kind.code for kind in subclasses(RtaError) if kind.__module__ == "rta.errors"}
    assert [code for code in sorted(codes) if f"`{code}`" not in text] == []


def subclasses(kind: type[RtaError]) -> list[type[RtaError]]:
    return [kind, *(found for below in kind.__subclasses__() for found in subclasses(below))]


def test_the_demo_data_is_what_it_says() -> None:
    lines = gzip.decompress((ROOT / "rta" / "demo" / SAMPLE).read_bytes()).splitlines()
    assert len(lines) == EDITS
    document = json.loads((ROOT / "rta" / "demo" / "wikipedia.json").read_text())
    assert set(json.loads(lines[0])) == {*document["columns"], document["time"]}
    counted: dict[str, int] = {}
    for line in lines:
        page = json.loads(line)["page"]
        counted[page] = counted.get(page, 0) + 1
    assert all(counted[page] == edits for page, edits in published_pages())
    assert "Druid" in (ROOT / "rta" / "demo" / "PROVENANCE.md").read_text()


def test_every_dependency_is_pinned_and_allowed() -> None:
    pins: dict[str, str] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            pins[canonicalize_name(name)] = version
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    for text in wanted:
        requirement = Requirement(text)
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin is not None, f"{requirement.name} is not in constraints.txt"
        assert requirement.specifier.contains(pin), f"{text} against {pin}"
    assert requires("ray") is not None


def test_the_license_is_whole() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
