"""Where a release came from: commit, data, parameters, trainer, gate, release and promotions, as a chain."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sekisho.errors import SekishoError
from sekisho.monitoring.lineage import changed_parameters, commit_of, parameters_of, promotions, verified
from sekisho.page.blocks import Block, Both, Cell, Chain, Link, Plain, Step, Table
from sekisho.release.audit import Event

Traces = Mapping[Path, dict[str, Any] | SekishoError]


def chain(repo: Path, events: list[Event], trace: dict[str, Any]) -> Chain:
    """From the pull request to every promotion."""
    made, approval, release = trace["commit"], trace["approval"], trace["release"]
    commit = commit_of(repo, made["commit"])
    parameters = parameters_of(repo, made["commit"])
    trainer = (parameters.get("train") or {}).get("trainer")
    windows = trace["data"]["windows"]
    metrics = trace["metrics"]
    digest = release["manifest_digest"]
    promoted = promotions(events, digest)
    steps = [
        Step(
            Both("Pull request and commit", "プルリクエストとコミット"),
            [
                Link(Plain(f"#{approval['pr']}"), approval["url"]),
                f"`{made['commit'][:12]}`",
                *(
                    [Plain(commit.subject), Plain(f"{commit.author}, {commit.at[:10]}")]
                    if commit
                    else [_not_here()]
                ),
            ],
        ),
        Step(
            Both("Data", "データ"),
            [
                *(Plain(f"{item['path']} · md5 {item['dvc_md5'][:12]}…") for item in trace["data"]["sets"]),
                Plain(" – ".join(trace["data"]["range"].values())),
                *(
                    Both(
                        f"{en}: {windows[key][0]} – {windows[key][-1]}",
                        f"{ja}: {windows[key][0]} – {windows[key][-1]}",
                        plain=True,
                    )
                    for key, en, ja in (
                        ("train", "train", "学習"),
                        ("validation", "validation", "検証"),
                        ("test", "test", "テスト"),
                    )
                    if windows.get(key)
                ),
            ],
        ),
        Step(
            Both("Parameters", "パラメータ"),
            [
                Plain(f"params.yaml · sha256 {trace['parameters']['sha256'][:12]}…"),
                Plain(f"dvc.lock · sha256 {made['dvc_lock_sha256'][:12]}…"),
            ],
        ),
        Step(
            Both("Trainer", "学習プログラム"),
            [
                Plain(f"training/{trainer}.py") if trainer else _not_here(),
                Both(f"seeds {_list(metrics['seeds'])}", f"シード {_list(metrics['seeds'])}"),
            ],
        ),
        Step(
            Both("Gate", "ゲート"),
            [
                Both("✅ passed", "✅ 合格") if metrics["gate_passed"] else Both("❌ failed", "❌ 不合格"),
                Both(f"trials counted: {metrics['trials']}", f"数えた試行: {metrics['trials']}"),
                Both(
                    f"deflated Sharpe ratio {metrics['deflated_sharpe']:.3f}",
                    f"デフレーテッド・シャープレシオ {metrics['deflated_sharpe']:.3f}",
                ),
            ],
        ),
        Step(
            Both("Release", "リリース"),
            [
                Link(Plain(f"{release['model']}/{release['seq']}"), "audit.html"),
                Plain(f"sha256 {digest[:12]}…"),
                Both(
                    f"signed {trace['signatures'][0]['signed_at'][:16]}",
                    f"署名 {trace['signatures'][0]['signed_at'][:16]}",
                ),
            ],
        ),
        *(_promotion(event) for event in promoted),
    ]
    if not promoted:
        steps.append(Step(Both("Promotions", "昇格"), [Both("none yet", "まだなし")]))
    return Chain(steps)


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


def _not_here() -> Both:
    return Both("not in this clone", "このクローンにはありません")


def _list(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))
