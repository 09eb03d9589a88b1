"""The report's first paragraph, in words a trader uses: English and Japanese, both made from the figures."""

from __future__ import annotations

import math
from typing import Any

from sekisho.backtest.names import BASELINES

STRATEGIES_JA = {
    "cash": "現金",
    "buy-and-hold": "等ウェイト買い持ち",
    "momentum": "モメンタム",
    "minimum-variance": "最小分散",
    "champion": "現行モデル",
}
COSTS_JA = "実際のコストはモデルより大きくなりがちです。それでも優位性が残る必要があります。"
BEATS_JA = "コスト控除後に単純な戦略に勝てないなら、エージェントのリスクを取る意味がありません。"
RULES_JA = {  # rule -> its name and its reason
    "net Sharpe ratio, lower bound": (
        "コスト控除後シャープレシオの下限",
        "信頼区間の下限で消える利益は、偶然かもしれません。",
    ),
    "maximum drawdown": ("最大ドローダウン", "これより深い損失は、回復する前に運用停止を招きます。"),
    "turnover a session": (
        "1 営業日の売買回転率",
        "過大な売買はコストモデルに全面的に依存し、資金を増やせません。",
    ),
    "capacity, multiple of the capital": (
        "キャパシティ（資金の倍数）",
        "資金を増やすとすぐ自らのマーケットインパクトで消える優位性は、投入に値しません。",
    ),
    "seeds agree (lowest Sharpe ratio)": (
        "乱数シード間の一致",
        "別のシードで再現しない結果は、手法の性質ではありません。",
    ),
    "not worse than the champion (Sharpe ratio's difference, lower bound)": (
        "現行モデルに明らかに劣らない（シャープレシオの差の下限）",
        "本番のモデルは、同じ営業日で明らかに劣らないものにだけ置き換えます。",
    ),
    "deflated Sharpe ratio": (
        "デフレーテッド・シャープレシオ",
        "多くの試行の最良は偶然でも良く見えます。全試行の数だけ割り引きます。",
    ),
    "probability of backtest overfitting": (
        "バックテスト過学習の確率",
        "半分の期間での最良が残りの期間で他に勝らないなら、それを選ぶことに意味はありません。",
    ),
    "trials counted from full history": (
        "全履歴からの試行回数の集計",
        "浅いクローンでは過去の試行が見えず、エージェントが実際より良く見えます。",
    ),
    "no look-ahead (features that leak)": (
        "先読みバイアスなし（先読みする特徴量の数）",
        "未来を知る特徴量があれば、上のすべての数値は無意味です。",
    ),
}
for _name in BASELINES:
    RULES_JA[f"beats {_name}"] = (f"{STRATEGIES_JA[_name]}を上回る", BEATS_JA)
    RULES_JA[f"beats {_name} at double cost"] = (f"コスト 2 倍で{STRATEGIES_JA[_name]}を上回る", COSTS_JA)
NOTES_JA = {
    "There is no champion: nothing is in production.": "現行モデルはありません。本番には何も出ていません。"
}


def summary_english(metrics: dict[str, Any], gate: dict[str, Any]) -> str:
    """What it made after costs, how sure that is, whether it passed and why not."""
    agent, window = metrics["agent"], metrics["window"]
    count = len(metrics["folds"])
    scope = (
        f"Over {window['sessions']} sessions from {window['first']} to {window['last']}, in "
        f"{count} test window{'s' if count > 1 else ''} kept out of training,"
    )
    if agent["turnover"] == 0:
        result = f"{scope} **the agent did not trade**: it held cash throughout."
    else:
        interval = f"{number(agent['sharpe_low'])} to {number(agent['sharpe_high'])}"
        result = (
            f"{scope} the agent **{_made(agent['total_return'])} after all costs** "
            f"({percent(agent['annual_return'])} a year; before costs "
            f"{percent(agent['annual_return_gross'])} a year). Its Sharpe ratio is {number(agent['sharpe'])} "
            f"({percent(metrics['confidence'], 0)} interval {interval}); the worst loss from a high was "
            f"{percent(agent['max_drawdown'])}. {_earns(agent)}"
        )
    best = best_baseline(metrics)
    found = metrics["baselines"][best]
    compared = (
        f"The best baseline, {best}, {_made(found['total_return'])} with a Sharpe ratio of "
        f"{number(found['sharpe'])}. At double costs the agent's annual return is "
        f"{percent(agent['annual_return_by_cost'].get('2'))}. {_capacity(agent)} {_champion(metrics)}"
    )
    rules = gate["rules"]
    failed = [rule["rule"] for rule in rules if not rule["passed"]]
    if failed:
        reasons = "; ".join(failed)
        verdict = f"**It does not pass the gate**: {len(failed)} of {len(rules)} rules fail ({reasons})."
    else:
        verdict = f"**It passes the gate**: all {len(rules)} rules hold."
    return f"{result} {compared} {verdict}"


def summary_japanese(metrics: dict[str, Any], gate: dict[str, Any]) -> str:
    """The same in Japanese."""
    agent, window = metrics["agent"], metrics["window"]
    scope = (
        f"{window['first']} から {window['last']} までの {window['sessions']} 営業日"
        f"（学習に使っていない {len(metrics['folds'])} つのテスト期間）で、"
    )
    if agent["turnover"] == 0:
        result = f"{scope}**エージェントは一度も売買せず**、現金のままでした。"
    else:
        net, gross = agent["annual_return"], agent["annual_return_gross"]
        interval = f"{number(agent['sharpe_low'])}〜{number(agent['sharpe_high'])}"
        result = (
            f"{scope}エージェントの損益は**すべてのコストを差し引いて "
            f"{percent(agent['total_return'], sign=True)}** でした（年率 {percent(net, sign=True)}、"
            f"コスト控除前は年率 {percent(gross, sign=True)}）。"
            f"シャープレシオは {number(agent['sharpe'])}"
            f"（{percent(metrics['confidence'], 0)} 信頼区間 {interval}）、"
            f"最大ドローダウンは {percent(agent['max_drawdown'])} です。{_earns_japanese(agent)}"
        )
    best = best_baseline(metrics)
    found = metrics["baselines"][best]
    double = percent(agent["annual_return_by_cost"].get("2"), sign=True)
    compared = (
        f"最も良いベースラインは「{STRATEGIES_JA[best]}」で、"
        f"損益 {percent(found['total_return'], sign=True)}、シャープレシオ {number(found['sharpe'])} でした。"
        f"コストが 2 倍になると、エージェントの年率リターンは {double} です。"
        f"{_capacity_japanese(agent)}{_champion_japanese(metrics)}"
    )
    rules = gate["rules"]
    failed = [RULES_JA[rule["rule"]][0] for rule in rules if not rule["passed"]]
    if failed:
        reasons = "、".join(failed)
        verdict = (
            f"**ゲートは不合格**です。{len(rules)} 項目のうち {len(failed)} 項目を満たしません（{reasons}）。"
        )
    else:
        verdict = f"**ゲートは合格**です。{len(rules)} 項目をすべて満たします。"
    return result + compared + verdict


def best_baseline(metrics: dict[str, Any]) -> str:
    """The simple strategy with the highest Sharpe ratio; the champion, beside them in the table, is none."""
    ratios: dict[str, float | None] = {name: metrics["baselines"][name]["sharpe"] for name in BASELINES}
    return max(ratios, key=lambda name: -math.inf if (ratio := ratios[name]) is None else ratio)


def _earns(agent: dict[str, Any]) -> str:
    if agent["annual_return_gross"] <= 0:
        return "**The agent does not earn its costs: it lost money even before them.**"
    if agent["total_return"] <= 0:
        return "**The agent does not earn its costs: what it gained, trading took away.**"
    if agent["sharpe_low"] is None or agent["sharpe_low"] <= 0:
        return "The interval holds zero: this profit cannot be told from luck."
    return "The interval lies above zero."


def _earns_japanese(agent: dict[str, Any]) -> str:
    if agent["annual_return_gross"] <= 0:
        return "**コストを賄えていません。コストを引く前から損失です。**"
    if agent["total_return"] <= 0:
        return "**コストを賄えていません。得た利益は売買コストで失われました。**"
    if agent["sharpe_low"] is None or agent["sharpe_low"] <= 0:
        return "区間がゼロを含むため、この利益は偶然と区別できません。"
    return "区間はゼロを上回ります。"


def _capacity(agent: dict[str, Any]) -> str:
    found = agent["capacity"]
    if not found["multiple"]:
        return "There is no edge whose capacity could be measured."
    if not found["reached"]:
        return f"At {number(found['multiple'], 0)} times the capital its edge still stands."
    multiple, share = number(found["multiple"], 1), percent(found["share"], 0)
    return f"At {multiple} times the capital its own impact leaves less than {share} of its Sharpe ratio."


def _capacity_japanese(agent: dict[str, Any]) -> str:
    found = agent["capacity"]
    if not found["multiple"]:
        return "キャパシティを測るべき優位性はありません。"
    if not found["reached"]:
        return f"資金を {number(found['multiple'], 0)} 倍にしても優位性は残ります。"
    multiple, share = number(found["multiple"], 1), percent(found["share"], 0)
    return f"資金が約 {multiple} 倍になると、自らの売買の影響でシャープレシオは {share} 未満に減ります。"


def _champion(metrics: dict[str, Any]) -> str:
    over = metrics["over_champion"]
    if over is None:
        return "No model is in production to compare it with."
    return (
        f"Its Sharpe ratio less that of the model in production, {metrics['opening']['champion']}, is "
        f"{number(over['sharpe'])} ({number(over['sharpe_low'])} to {number(over['sharpe_high'])})."
    )


def _champion_japanese(metrics: dict[str, Any]) -> str:
    over = metrics["over_champion"]
    if over is None:
        return "比較すべき現行モデルはありません。"
    return (
        f"現行モデル {metrics['opening']['champion']} とのシャープレシオの差は {number(over['sharpe'])}"
        f"（{number(over['sharpe_low'])}〜{number(over['sharpe_high'])}）です。"
    )


def _made(total: float) -> str:
    return f"made {percent(total)}" if total >= 0 else f"lost {percent(-total)}"


def percent(value: float | None, digits: int = 1, *, sign: bool = False) -> str:
    """A fraction as a percentage; – where there is none."""
    return "–" if value is None else f"{100.0 * value:{'+' if sign else ''},.{digits}f}%"


def number(value: float | None, digits: int = 2) -> str:
    """A figure to so many decimals; – where there is none."""
    return "–" if value is None else f"{value:,.{digits}f}"
