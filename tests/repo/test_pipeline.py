"""Each stage of dvc.yaml names all the code it reads: DVC's skipping and approvals trust that list."""

from __future__ import annotations

import ast
import functools
from pathlib import Path
from typing import Any

import pytest
import yaml

from sekisho.cli import VERBS

REPO = Path(__file__).parents[2]
SOURCE = REPO / "src"
STAGES: dict[str, dict[str, Any]] = yaml.safe_load((REPO / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
# thin layers that decide no figure: options, messages; and the parameters, which a stage names by section
LEFT_OUT = ("src/sekisho/cli", "src/sekisho/errors.py", "src/sekisho/params.py", "src/sekisho/__init__.py")
TRAINERS = {"train": [f"training/{name}.py" for name in ("apg", "ppo", "td3")]}  # processes, not imported


def module_file(name: str) -> Path | None:
    path = SOURCE.joinpath(*name.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def imported(tree: ast.AST) -> set[Path]:
    """Files of the package that the import statements under ``tree`` load, their packages' too."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "relative imports are not followed"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    parts = [name.split(".") for name in names if name.split(".")[0] == "sekisho"]
    loaded = {".".join(part[:end]) for part in parts for end in range(1, len(part) + 1)}
    return {file for name in loaded if (file := module_file(name))}


@functools.cache
def says_nothing(file: Path) -> bool:
    """Whether a module holds no more than its docstring."""
    return all(isinstance(node, ast.Expr) for node in ast.parse(file.read_text(encoding="utf-8")).body)


@functools.cache
def imports_of(file: Path) -> frozenset[Path]:
    return frozenset(imported(ast.parse(file.read_text(encoding="utf-8"))))


def command_of(stage: str) -> ast.FunctionDef:
    """The function behind ``sekisho <verb> [<word>]``."""
    program, verb, *words = STAGES[stage]["cmd"].split()
    assert program == "sekisho"
    file = module_file(f"sekisho.cli.{VERBS[verb][0]}")
    assert file is not None
    name = words[0] if words else verb
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)


@functools.cache
def code_read(stage: str) -> frozenset[str]:
    """Paths in the repository of all code that a stage runs."""
    waiting = imported(command_of(stage)) | {REPO / trainer for trainer in TRAINERS.get(stage, [])}
    found: set[str] = set()
    while waiting:
        file = waiting.pop()
        path = file.relative_to(REPO).as_posix()
        if path not in found and not path.startswith(LEFT_OUT) and not says_nothing(file):
            found.add(path)
            waiting |= imports_of(file)
    return frozenset(found)


def uncovered(stage: str, deps: list[str]) -> list[str]:
    return sorted(
        path
        for path in code_read(stage)
        if not any(path == dep or path.startswith(f"{dep}/") for dep in deps)
    )


def code_deps() -> list[tuple[str, str]]:
    deps = [(stage, dep) for stage, content in STAGES.items() for dep in content["deps"]]
    return [(stage, dep) for stage, dep in deps if dep.startswith(("src/", "training/"))]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_names_all_the_code_it_reads(stage: str) -> None:
    assert code_read(stage)
    assert uncovered(stage, STAGES[stage]["deps"]) == []


@pytest.mark.parametrize(("stage", "dep"), code_deps())
def test_every_named_dependency_is_needed(stage: str, dep: str) -> None:
    assert uncovered(stage, [other for other in STAGES[stage]["deps"] if other != dep])


def test_the_report_reads_the_counts_of_validation() -> None:
    assert "metrics/validate.json" in STAGES["report"]["deps"]


@pytest.mark.parametrize("stage", STAGES)
def test_the_run_cache_takes_every_stage(stage: str) -> None:
    """DVC leaves out stages with outputs that persist, or that git keeps and are no metric and no plot."""
    kinds = {kind: STAGES[stage].get(kind, []) for kind in ("outs", "metrics", "plots")}
    options = [
        (kind, value)
        for kind, entries in kinds.items()
        for entry in entries
        if isinstance(entry, dict)
        for value in entry.values()
    ]
    assert not [value for _, value in options if value.get("persist")]
    assert not [value for kind, value in options if kind == "outs" and value.get("cache") is False]
