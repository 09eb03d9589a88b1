"""What a verdict says, in both languages: for the status page, the model page and the chart."""

from __future__ import annotations

import datetime as dt
import re

from sekisho.monitoring.verdict import Verdict
from sekisho.page.blocks import Both

STATES = {
    "ok": Both("✅ in order", "✅ 正常"),
    "alarm": Both("❌ alarm", "❌ アラーム"),
    "cannot-judge": Both("⚠️ cannot be judged", "⚠️ 判定できません"),
}
ACTIONS = {
    "none": "nothing to do",
    "propose": "a drift proposes a retraining; people decide whether it is one to answer",
    "retrain": "a retraining is due by policy; champion against challenger decides which model serves",
    "halt": "a loss over its limit: the kill switch belongs off; no retraining turns it on again, people do",
    "mend": "mend the data or the serving side; no retraining mends them",
}
ACTIONS_JA = {
    "none": "何もする必要はありません",
    "propose": "ドリフトが再学習を提案しています。応じるかどうかは人が決めます",
    "retrain": "規定により再学習の時期です。どのモデルを使うかは、現行と挑戦モデルの比較で決まります",
    "halt": "損失が限度を超えました。緊急停止を切にすべきです。再学習では元に戻らず、人が決めます",
    "mend": "データか配信側を直してください。再学習では直りません",
}
NAMES_JA = {
    # alarms
    "mean": "平均",
    "volatility": "ボラティリティ",
    "correlation": "相関",
    "performance": "運用成績",
    "age": "モデルの古さ",
    "drawdown": "ドローダウン",
    "session-loss": "立会日の損失",
    "parity": "再現の一致",
    "safe-answers": "安全動作の割合",
    "skew": "学習と配信のずれ",
    # figures
    "sessions judged": "判定した立会日",
    "predictions": "予測の数",
    "guard": "ガードの判定",
    "latency": "応答時間",
    "false alarms a month, measured on the reference": "1 か月あたりの誤警報(基準データで測定)",
    "replay parity": "再現の一致",
    "features served against recomputed": "配信した特徴量と再計算の比較",
    "live account, net": "実運用の口座(コスト控除後)",
    "live minus replayed model": "実運用 − 再現したモデル",
    "CUSUM of shortfalls": "不足分の CUSUM",
    "manifest": "マニフェスト",
    "reference": "基準",
    # series
    "fraction of equity lost": "失った資産の割合",
    "equity below the backtest's band": "バックテストの範囲を下回る資産",
    "CUSUM of net returns under the backtest's mean": "バックテストの平均を下回る純リターンの CUSUM",
    "logged against replayed weights": "記録したウェイトと再現したウェイトの差",
    # in the chart
    "alarm": "アラーム",
    "statistic / limit (log)": "統計量 ÷ 基準(対数)",
    "live, net": "実運用",
    "lower end of the backtest's band": "バックテストの範囲の下端",
    "equity (start 1)": "資産(開始時 = 1)",
}


def named(english: str) -> Both | str:
    """An alarm's family or a figure's name in both languages; itself where it has no Japanese."""
    return Both(english, NAMES_JA[english]) if english in NAMES_JA else english


def series(english: str) -> Both:
    """An alarm's series in both languages; symbols, features and the guard's verdicts have one name."""
    japanese = NAMES_JA.get(english, english)
    if ended := re.fullmatch(r"training window ends (\S+)", english):
        japanese = f"学習期間の最終日 {ended[1]}"
    elif feature := re.fullmatch(r"(\S+) of (\S+)", english):
        japanese = f"{feature[2]} の {feature[1]}"
    return Both(english, japanese, plain=True)


def action(verdict: Verdict) -> Both:
    """What the policy asks for."""
    name = verdict.action
    return Both(f"Action: **{name}** ({ACTIONS[name]}).", f"対応: **{name}**({ACTIONS_JA[name]})。")


def sentence(verdict: Verdict) -> Both:
    """The verdict in one line."""
    return Both(verdict.sentence(), _sentence_japanese(verdict), plain=True)


def _sentence_japanese(verdict: Verdict) -> str:
    """Problems and series stay as the check wrote them."""
    if verdict.state == "cannot-judge":
        beside = "".join(
            f"。ただし {alarm.session} に{NAMES_JA.get(alarm.family, alarm.family)}のアラームあり"
            for alarm in verdict.alarms
        )
        more = f" (ほか {len(verdict.problems) - 1} 件)" if len(verdict.problems) > 1 else ""
        return f"判定できません: {verdict.problems[0]}{more}{beside}"
    span = f"{verdict.first_session}〜{verdict.last_session} の {verdict.sessions} 立会日"
    if verdict.state == "ok":
        level = max(verdict.levels.values(), default=0.0)
        return f"正常: {span}、ドリフトの水準は {level:.3g}(基準 {verdict.threshold:g})"
    alarm = verdict.alarms[0]
    family = NAMES_JA.get(alarm.family, alarm.family)
    others = "、".join(NAMES_JA.get(name, name) for name in verdict.other_families())
    also = f"。ほかに{others}のアラームあり" if others else ""
    return (
        f"アラーム: {alarm.session} に「{series(alarm.series).ja}」の{family}が "
        f"{alarm.statistic:.3g} となり、"
        f"基準 {alarm.threshold:g} を超えました({span}){also}"
    )


def minute(moment: str | None) -> str:
    """A moment as the record writes it, to the minute: in UTC, and said to be."""
    if moment is None:
        return "–"
    return f"{dt.datetime.fromisoformat(moment).astimezone(dt.UTC):%Y-%m-%d %H:%M}Z"
