"""Metrics files: whole or not at all, with errors that name them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sekisho.errors import BacktestError, Refused


def write_json(content: dict[str, Any], path: Path) -> None:
    """Write a metrics file in one rename."""
    write_together({path: to_json(content)})


def to_json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write all files beside their places, then rename them: a full disk leaves all as they were."""
    fresh = {path: path.with_name(f".{path.name}.new") for path in contents}
    try:
        for path, beside in fresh.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_bytes(contents[path])
        for path, beside in fresh.items():
            beside.replace(path)
    finally:
        for beside in fresh.values():
            beside.unlink(missing_ok=True)  # left only where the disk is full


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


def rounded(value: Any) -> Any:
    """Floats to eight significant digits: what lies below is rounding and would clutter every diff."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.8g}") if isinstance(value, float) else value


def require_returns(backtest: Mapping[str, Any], sha256: str, name: str = "returns.csv") -> None:
    """The session returns of this ``sha256`` are those that the backtest wrote with its figures.

    Raises:
        Refused: rule ``returns-digest``; names the file.
    """
    written = backtest.get("returns_sha256")
    if written != sha256:
        raise Refused(
            "returns-digest",
            expected=f"{name} of sha256 {written}, as backtest.json says",
            found=sha256,
            remedy="run `dvc repro --force backtest`, commit; edit neither file",
        )
