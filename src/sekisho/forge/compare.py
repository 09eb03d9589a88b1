"""What a pull request changes, for its report: parameters, data and figures beside main's and the champion's.

All of it is read from commits through the forge, so that it needs no checkout and no data.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ruamel.yaml.error import YAMLError

from sekisho.forge.interface import Forge, PullRequest
from sekisho.forge.markdown import one_line
from sekisho.params import lookup, parse_yaml
from sekisho.pointer import parse_pointer

HEADLINE = re.compile(r"backtest\.agent\.[a-z_]+")  # not the nested ones

Flat = dict[str, object]


def differences(forge: Forge, pull: PullRequest) -> str:
    """Parameters and data that differ from the base; figures beside the base's and the champion's."""
    base, head = pull.base_sha, pull.head_sha
    params = [_flat(_yaml(forge, sha, "params.yaml")) for sha in (base, head)]
    data = [_data(forge, sha) for sha in (base, head)]
    sides = {"base": _metrics(forge, base), "head": _metrics(forge, head)}
    release, commit = champion(forge, base)
    if commit:
        sides = {"base": sides["base"], f"champion {release}": _metrics(forge, commit), "head": sides["head"]}
    names = list(sides)
    figures = [{k: v for k, v in side.items() if HEADLINE.fullmatch(k)} for side in sides.values()]
    others = [{k: v for k, v in side.items() if not HEADLINE.fullmatch(k)} for side in sides.values()]
    folded = _table("Metrics", names, others)
    return "\n\n".join(
        [
            _table("Parameters", ["base", "head"], params),
            _table("Data", ["base", "head"], data),
            _table("Figures of the agent", names, figures),
            f"<details><summary>All other metrics</summary>\n\n{folded}\n\n</details>\n",
        ]
    )


def links(pull: PullRequest) -> str:
    """Where a reader goes on from the report, as Markdown; nothing on a forge without pages."""
    if "://" not in pull.url:
        return ""
    found = [f"[changes]({pull.url}/files)", f"[checks and the HTML report]({pull.url}/checks)"]
    run = os.environ.get("GITHUB_RUN_ID")
    if run:
        server, repository = os.environ["GITHUB_SERVER_URL"], os.environ["GITHUB_REPOSITORY"]
        found.append(f"[this run]({server}/{repository}/actions/runs/{run})")
    return " · " + " · ".join(found)


def champion(forge: Forge, sha: str) -> tuple[str, str | None]:
    """The release in production as of a commit, and the commit that it was made from (None: no release)."""
    place = lookup(_yaml(forge, sha, "params.yaml"), "backtest.champion")
    line = forge.read_file(sha, f"deploy/policy/{place}/release.env") or b""
    pointer = parse_pointer(line.decode(errors="replace"))
    if pointer is None:
        return "none", None
    model, seq, release = pointer.model, pointer.seq, pointer.release
    for _ in range(seq):  # a rollback's own content is that of an older one
        try:
            manifest = json.loads(forge.read_file(sha, f"releases/{model}/{seq}/manifest.json") or b"")
            if manifest["rollback"] is None:
                return release, str(manifest["created_from"]["commit"])
            seq = int(manifest["rollback"]["seq"])
        except (ValueError, KeyError, TypeError):
            break
    return release, None


def _data(forge: Forge, sha: str) -> Flat:
    """Digest, size and number of files of what DVC tracks and no stage makes, from ``data.dvc``."""
    content = _yaml(forge, sha, "data.dvc")
    found: Flat = {}
    for out in content.get("outs", []):
        for name, unit in (("md5", ""), ("size", ", bytes"), ("nfiles", "")):
            if name in out:
                key = {"md5": "digest", "nfiles": "files"}.get(name, name)
                found[f"{out.get('path')}: {key}{unit}"] = out[name]
    return found


def _metrics(forge: Forge, sha: str) -> Flat:
    flat: Flat = {}
    for name, content in forge.read_folder(sha, "metrics").items():
        if name.endswith(".json"):
            try:
                flat |= _flat(json.loads(content), name.removesuffix(".json"))
            except ValueError:
                flat[name] = "not JSON"
    return flat


def _yaml(forge: Forge, sha: str, path: str) -> dict[str, Any]:
    try:
        value = parse_yaml(forge.read_file(sha, path) or b"")
    except YAMLError:
        return {}
    return value if isinstance(value, dict) else {}


def _flat(value: Any, prefix: str = "") -> Flat:
    if isinstance(value, dict):
        return {
            k: v
            for key, inner in value.items()
            for k, v in _flat(inner, f"{prefix}.{key}".strip(".")).items()
        }
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return {k: v for n, inner in enumerate(value) for k, v in _flat(inner, f"{prefix}[{n}]").items()}
    return {prefix: value} if prefix else {}


def _table(title: str, names: Sequence[str], sides: Sequence[Mapping[str, object]]) -> str:
    """The keys whose value is not the same on every side."""
    keys = [key for key in sorted(set().union(*sides)) if any(s.get(key) != sides[0].get(key) for s in sides)]
    if not keys:
        return f"**{title}**: as in the base."
    rows = [
        "| " + " | ".join([f"`{_cell(key)}`", *(_cell(side.get(key, "–")) for side in sides)]) + " |"
        for key in keys
    ]
    lines = [f"**{title}** that differ", "", f"| | {' | '.join(map(_cell, names))} |"]
    return "\n".join([*lines, "|---" * (len(names) + 1) + "|", *rows])


def _cell(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return one_line(text, 120).replace("|", "\\|").replace("`", "'").replace("<", "&lt;")
