"""Terraform's plans on a pull request: one comment, updated in place, for the head that was planned.

A plan comes from a run of the pull request's own code: it is text to be shown, quoted so that nothing in it
acts, and it is not shown at all when it holds what looks like a secret.
"""

from __future__ import annotations

import re
from pathlib import Path

from sekisho.errors import CannotCheck, Refused
from sekisho.forge.interface import Forge, head_moved
from sekisho.forge.markdown import quoted
from sekisho.forge.records import require_bot

SUMMARY = re.compile(r"^Plan: (\d+ to \w+(?:, \d+ to \w+)*)\.$", re.MULTILINE)
UNCHANGED = re.compile(r"^No changes\.", re.MULTILINE)
# Terraform hides what is marked as sensitive; these are forms that no plan has to show, marked or not
SECRETS = {
    "an AWS access key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "an AWS secret key": re.compile(r"secret_access_key\"?\s*[=:]\s*\"?[A-Za-z0-9/+]{40}\b"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "a GitHub token": re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{50,})"),
    "a Slack address or token": re.compile(r"hooks\.slack\.com/services/\S+|\bxox[abprs]-[A-Za-z0-9-]{10,}"),
    "a password": re.compile(r"\b(?:master_)?password\"?\s*[=:]\s*\"[^\"]+\""),
}
LIMIT = 1 << 20  # bytes of one plan


def publish_plans(forge: Forge, number: int, head: str, folder: Path) -> list[int]:
    """Post or update the plans of a pull request's head; the ids of the comment's parts.

    Args:
        head: the commit that was planned.
        folder: ``<environment>/<layer>/plan.txt``, each the text of ``terraform show``.

    Raises:
        CannotCheck: no plan, or one that is not Terraform's.
        Refused: the head is another by now, or a plan holds a secret; the secret is not repeated.
    """
    require_bot(forge)
    pull = forge.get_pull_request(number)
    if pull.head_sha != head:
        raise head_moved(head, pull.head_sha)
    plans = {path.parent.relative_to(folder).as_posix(): path for path in sorted(folder.glob("*/*/plan.txt"))}
    if not plans:
        raise CannotCheck(f"{folder}: no plan (<environment>/<layer>/plan.txt)", remedy="run terraform plan")
    texts = {stack: _read(path, stack) for stack, path in plans.items()}
    rows = "\n".join(f"| {quoted(stack)} | {_summary(text)} |" for stack, text in texts.items())
    shown = [
        f"### {quoted(stack)}\n\n```text\n{_fenced(text)}\n```"
        for stack, text in texts.items() if not UNCHANGED.search(text)
    ]  # fmt: skip
    body = [f"Terraform's plan for `{head}`", f"| stack | plan |\n| --- | --- |\n{rows}", *shown]
    return forge.upsert_comment(number, "plan", "\n\n".join(body))


def _read(path: Path, stack: str) -> str:
    raw = path.read_bytes()
    text = raw.decode("utf-8", errors="replace")
    if len(raw) > LIMIT or not (SUMMARY.search(text) or UNCHANGED.search(text)):
        raise CannotCheck(
            f"{path}: not the text of a plan of at most {LIMIT} bytes",
            remedy="write it with terraform show -no-color",
        )
    for line, content in enumerate(text.split("\n"), 1):
        for name, form in SECRETS.items():
            if form.search(content):
                raise Refused(
                    "plan.no-secret",
                    expected="a plan that can be shown",
                    found=f"{name} in line {line} of {quoted(stack)}",
                    remedy="mark the value as sensitive and renew the secret: it has been in a log",
                )
    return text


def _summary(text: str) -> str:
    found = SUMMARY.search(text)
    if not found:
        return "no changes"
    destroys = re.search(r"([1-9]\d*) to destroy", found[1])
    return f"**{found[1]}**" if destroys else found[1]


def _fenced(text: str) -> str:
    """The plan as it is, but for what would end its fence."""
    kept = "".join(c if c.isprintable() or c == "\n" else " " for c in text)
    return kept.replace("```", "'''").strip("\n")
