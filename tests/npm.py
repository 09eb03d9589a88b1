"""Packages of npm that tests need, pinned by a folder's package-lock.json, installed into ``build/npm``."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

BUILD = Path(__file__).parents[1] / "build" / "npm"


@cache
def npm_packages(folder: Path) -> Path:
    """``node_modules`` of a folder's package.json, installed once; skips where it cannot be."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed, and its packages cannot be fetched")
    wanted = {name: (folder / name).read_bytes() for name in ("package.json", "package-lock.json", ".npmrc")}
    build = BUILD / folder.name
    marker = build / "installed"
    if not (marker.exists() and marker.read_bytes() == wanted["package-lock.json"]):
        build.mkdir(parents=True, exist_ok=True)
        for name, content in wanted.items():
            (build / name).write_bytes(content)
        words = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
        done = subprocess.run(words, cwd=build, capture_output=True, text=True, env=os.environ, timeout=300)
        if done.returncode and re.search(r"ENOTFOUND|ECONNREFUSED|ETIMEDOUT|EAI_AGAIN", done.stderr):
            pytest.skip("the npm registry cannot be reached")
        assert done.returncode == 0, done.stderr
        marker.write_bytes(wanted["package-lock.json"])
    return build / "node_modules"
