"""Trainers are scripts, not a package: how a benchmark gets hold of one."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]


def load_trainer(name: str) -> ModuleType:
    """training/<name>.py as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"training/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
