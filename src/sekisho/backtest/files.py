"""Metrics files: whole or not at all, with errors that name them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sekisho.errors import BacktestError


def write_json(content: dict[str, Any], path: Path) -> None:
    """Write a metrics file in one rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)  # left only where the disk is full


def read_json(path: Path, stage: str) -> dict[str, Any]:
    """Read a metrics file.

    Raises:
        BacktestError: missing, truncated, or not an object; names the file and the stage that writes it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BacktestError(f"{path}: no such file", remedy=f"run `dvc repro {stage}`") from error
    except ValueError as error:
        raise BacktestError(
            f"{path}: not valid JSON: {error}", remedy=f"run `dvc repro {stage}` again"
        ) from error
    if not isinstance(content, dict):
        raise BacktestError(f"{path}: not a JSON object", remedy=f"run `dvc repro {stage}` again")
    return content
