"""Where a release came from: commit, data, parameters, trainer, gate, release and promotions, as a chain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sekisho.errors import SekishoError
from sekisho.monitoring.lineage import changed_parameters, commit_of, parameters_of, promotions, verified
from sekisho.monitoring.words import minute
from sekisho.page.blocks import Block, Both, Cell, Chain, Link, Plain, Step, Table
from sekisho.release.audit import Event

Traces = Mapping[Path, dict[str, Any] | SekishoError]
NOT_HERE = Both("not in this clone", "このクローンにはありません")
WINDOWS = {"train": "学習", "validation": "検証", "test": "テスト"}


def chain(repo: Path, events: list[Event], trace: dict[str, Any]) -> Chain:
    """From the pull request to every promotion."""
    promoted = [_promotion(event) for event in promotions(events, trace["release"]["manifest_digest"])]
    none = Step(Both("Promotions", "昇格"), [Both("none yet", "まだなし")])
    return Chain(
        [
            _commit(repo, trace),
            _data(trace),
            Step(
                Both("Parameters", "パラメータ"),
                [
                    Plain(f"params.yaml · sha256 {trace['parameters']['sha256'][:12]}…"),
                    Plain(f"dvc.lock · sha256 {trace['commit']['dvc_lock_sha256'][:12]}…"),
                ],
            ),
            _trainer(repo, trace),
            _gate(trace["metrics"]),
            _release(trace),
            *(promoted or [none]),
        ]
    )


def _commit(repo: Path, trace: dict[str, Any]) -> Step:
    made, approval = trace["commit"]["commit"], trace["approval"]
    commit = commit_of(repo, made)
    known = [Plain(commit.subject), Plain(f"{commit.author}, {commit.at[:10]}")] if commit else [NOT_HERE]
    return Step(
        Both("Pull request and commit", "プルリクエストとコミット"),
        [Link(Plain(f"#{approval['pr']}"), approval["url"]), f"`{made[:12]}`", *known],
    )


def _data(trace: dict[str, Any]) -> Step:
    windows = trace["data"]["windows"]
    spans = {key: f"{days[0]} – {days[-1]}" for key, days in windows.items() if days}
    return Step(
        Both("Data", "データ"),
        [
            *(Plain(f"{item['path']} · md5 {item['dvc_md5'][:12]}…") for item in trace["data"]["sets"]),
            Plain(" – ".join(trace["data"]["range"].values())),
            *(
                Both(f"{key}: {spans[key]}", f"{name}: {spans[key]}", plain=True)
                for key, name in WINDOWS.items()
                if key in spans
            ),
        ],
    )


def _trainer(repo: Path, trace: dict[str, Any]) -> Step:
    """The file is named by the commit's own parameters; the seeds are the signed evaluation's."""
    name = (parameters_of(repo, trace["commit"]["commit"]).get("train") or {}).get("trainer")
    seeds = ", ".join(map(str, trace["metrics"]["seeds"]))
    return Step(
        Both("Trainer", "学習プログラム"),
        [Plain(f"training/{name}.py") if name else NOT_HERE, Both(f"seeds {seeds}", f"シード {seeds}")],
    )


def _gate(metrics: dict[str, Any]) -> Step:
    deflated = f"{metrics['deflated_sharpe']:.3f}"
    return Step(
        Both("Gate", "ゲート"),
        [
            Both("✅ passed", "✅ 合格") if metrics["gate_passed"] else Both("❌ failed", "❌ 不合格"),
            Both(f"trials counted: {metrics['trials']}", f"数えた試行: {metrics['trials']}"),
            Both(f"deflated Sharpe ratio {deflated}", f"デフレーテッド・シャープレシオ {deflated}"),
        ],
    )


def _release(trace: dict[str, Any]) -> Step:
    release, signed = trace["release"], minute(trace["signatures"][0]["signed_at"])
    return Step(
        Both("Release", "リリース"),
        [
            Link(Plain(f"{release['model']}/{release['seq']}"), "audit.html"),
            Plain(f"sha256 {release['manifest_digest'][:12]}…"),
            Both(f"signed {signed}", f"署名 {signed}"),
        ],
    )


def _promotion(event: Event) -> Step:
    where, details = str(event.details.get("environment")), event.details
    return Step(
        Both(f"Promoted to {where}", f"{where} へ昇格", plain=True),
        [Plain(f"{event.at:%Y-%m-%d %H:%M}Z"), Plain(event.actor), Plain(str(details.get("reason") or ""))],
    )


def changes(repo: Path, traces: Traces, trace: dict[str, Any]) -> Iterator[Block]:
    """Parameters against the release before; nothing where there was none."""
    release = trace["release"]
    before = repo / "releases" / release["model"] / str(release["seq"] - 1)
    earlier = verified(traces.get(before))
    if earlier is None:
        return
    old, new = (parameters_of(repo, one["commit"]["commit"]) for one in (earlier, trace))
    rows: list[list[Cell]] = [
        [Plain(key), Plain(was), Plain(now)] for key, was, now in changed_parameters(old, new)
    ]
    if rows:
        yield Table(
            [
                Both("changed parameter", "変わったパラメータ"),
                Both(f"in {release['seq'] - 1}", f"{release['seq'] - 1} での値"),
                Both(f"in {release['seq']}", f"{release['seq']} での値"),
            ],
            rows,
            left=frozenset({0, 1, 2}),
        )
