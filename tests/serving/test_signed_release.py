"""The command itself with a really signed release: served when promoted, refused otherwise."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sekisho.pointer import read_pointer
from sekisho.release.promote import promote

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A repository with release policy/1, signed and not promoted."""
    workshops = _load("release_workshop", ROOT / "tests/release/workshop.py")
    shop = workshops.build_repo(tmp_path_factory.mktemp("signed") / "repo")
    shop.export()
    shop.open_local()
    shop.sign()
    return shop


def _load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def serve(repo: Path, predictions: Path, *options: str) -> subprocess.Popen[str]:
    command = [
        "-c",
        "from sekisho.cli import run; run()",
        "serve",
        "--release",
        "policy/1",
        "--environment",
        "local",
    ]
    return subprocess.Popen(
        [sys.executable, *command, "--predictions", str(predictions), *options],
        cwd=repo,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def refusal(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1, output
    return output


@pytest.mark.slow
def test_only_a_promoted_untouched_release_is_served(workshop: Any, lab: ModuleType, tmp_path: Path) -> None:
    repo, predictions = workshop.repo, tmp_path / "predictions"
    assert "missing-fact" in refusal(serve(repo, predictions, "--port", "0"))
    promote(workshop.desk, workshop.release, "local", "test")
    pointer = str(read_pointer(repo, "local"))
    assert "release-pointer" in refusal(
        serve(repo, predictions, "--port", "0", "--expect", f"{pointer[:-1]}x")
    )

    touched = shutil.copytree(repo, tmp_path / "touched")
    model = touched / "releases/policy/1/content/model.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.chmod(0o644)
    model.write_bytes(content)
    assert "file-digest" in refusal(serve(touched, predictions, "--port", "0"))

    process = serve(repo, predictions, "--port", "0", "--expect", pointer)
    assert process.stdout
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "Uvicorn running" in line:
            break
    process.terminate()
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0, "".join(lines) + rest
    assert f"serving {pointer}" in "".join(lines)
