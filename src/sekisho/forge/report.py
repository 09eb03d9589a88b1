"""The backtest report on a pull request: one comment, updated in place, bound to the head it is about."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import subprocess
import tempfile
from pathlib import Path

from sekisho.dvc_files import files_under, folder_digest
from sekisho.errors import CannotCheck, ForgeError, Refused
from sekisho.forge.approvals import find_report
from sekisho.forge.compare import differences, links
from sekisho.forge.interface import Forge, head_moved, with_markers
from sekisho.forge.lock import read_lock
from sekisho.forge.propose import holds_results, read_results
from sekisho.forge.records import require_bot

log = logging.getLogger(__name__)

IMAGE = re.compile(r"(!\[[^\]\n]*\]\()([^)\s]+)(\))")
TITLE = "sekisho-report"
WATERMARK = re.compile(rf'!\[\]\(https://cml\.dev/watermark\.png#[0-9a-fA-F]+ "CML watermark {TITLE}"\)')
CML_PAGE = 30  # comments that CML reads
STALE = re.compile(r"^> \*\*Stale\.\*\* .*\n\n", re.MULTILINE)


def publish_report(forge: Forge, number: int, folder: Path, head: str) -> tuple[str, list[int]]:
    """Post or update the report of the pull request's head: differences to the base, then ``report.md``.

    Args:
        folder: the reproduced checkout, or what it left: dvc.lock, metrics, build/report.
        head: the commit that was reproduced.

    Returns the sha256 of ``report.md``, which approvals are bound to, and the ids of the comments.

    Raises:
        CannotCheck: no report, or the head has no dvc.lock.
        Refused: the pull request's head is neither ``head`` nor that with its results committed; the folder
            is not the report that its dvc.lock names; or the head moved meanwhile.
    """
    require_bot(forge)
    report = folder / "build/report"
    source = report / "report.md"
    if not source.is_file():
        raise CannotCheck(f"{source}: no such file", remedy="run dvc repro (or sekisho report) first")
    pull = forge.get_pull_request(number)
    if not holds_results(forge, head, pull.head_sha, read_results(folder)):
        raise head_moved(f"{head} with its results", pull.head_sha)
    _check_belongs(forge, pull.head_sha, report)
    text = source.read_bytes()
    digest = hashlib.sha256(text).hexdigest()
    images = {
        name: report / name
        for _, name, _ in IMAGE.findall(text.decode())
        if ":" not in name and (report / name).resolve().is_relative_to(report.resolve())
    }
    pictures = forge.publish_images(number, {n: p for n, p in images.items() if p.is_file()})
    shown = IMAGE.sub(lambda m: f"{m[1]}{pictures.get(m[2], m[2])}{m[3]}", text.decode())
    body = "\n".join(
        [
            f"<!-- sekisho:report-of head={pull.head_sha} report-sha256={digest} -->",
            f"Report of `{pull.head_sha}` · `report.md` sha256 `{digest}`\n",
            f"Approve exactly this with `/approve {pull.head_sha}`{links(pull)}\n",
            differences(forge, pull),
            shown,
        ]
    )
    if forge.get_pull_request(number).head_sha != pull.head_sha:
        raise Refused(
            "forge.head-unchanged",
            expected=pull.head_sha,
            found="a new push",
            remedy="run the pipeline on it",
        )
    return digest, _post(forge, number, body)


def mark_stale(forge: Forge, number: int) -> bool:
    """Say on top of the report that the head moved since; true if it is stale. Undone by the next report."""
    pull, report = forge.get_pull_request(number), find_report(forge, number)
    if report is None or report.head_sha == pull.head_sha:
        return False
    first, _, rest = STALE.sub("", report.comment.body).partition("\n")
    note = f"> **Stale.** This report is about `{report.head_sha}`; the head is `{pull.head_sha}`."
    binding, _, rest = rest.partition("\n")
    body = f"{first}\n{binding}\n{note}\n\n{rest}"
    if body != report.comment.body:
        forge.edit_comment(number, report.comment.id, body)
    return True


def _check_belongs(forge: Forge, head: str, report: Path) -> None:
    """The folder is the one that the head's dvc.lock names, byte for byte."""
    outs = [out for stage in read_lock(forge, head)[1].values() for out in stage.get("outs", [])]
    expected = next((out["md5"] for out in outs if out["path"] == "build/report"), None)
    found = folder_digest(files_under(report))
    if expected != found:
        raise Refused(
            "forge.report-of-head",
            expected=f"build/report with md5 {expected} (dvc.lock of {head})",
            found=found,
            remedy="commit dvc.lock and metrics after dvc repro, push, then post the report",
        )


def _post(forge: Forge, number: int, body: str) -> list[int]:
    """By our own publisher, or by CML (``SEKISHO_PUBLISHER=cml``) where it would do the same."""
    wished = os.environ.get("SEKISHO_PUBLISHER") == "cml"
    if wished and len(body) <= forge.params.report_limit and _cml_finds_the_report(forge, number):
        try:
            return [_post_by_cml(forge, number, body)]
        except (OSError, subprocess.SubprocessError) as error:
            log.warning("cml failed (%s): the report is posted without it", type(error).__name__)
    return forge.upsert_comment(number, "report", body)


def _cml_finds_the_report(forge: Forge, number: int) -> bool:
    """Whether CML 0.20.6 would edit the bot's report, or add it where there is none.

    It reads the first page of comments and edits the last one that bears its watermark, whoever wrote it.
    """
    marked = [c.id for c in forge.comments(number)[:CML_PAGE] if WATERMARK.search(c.body)]
    report = find_report(forge, number)
    return marked[-1:] == ([report.comment.id] if report else [])


def _post_by_cml(forge: Forge, number: int, body: str) -> int:
    with tempfile.TemporaryDirectory(prefix="sekisho-report-") as folder:
        path = Path(folder) / "report.md"
        path.write_text(with_markers("report", [body])[0], encoding="utf-8")
        words = ["cml", "comment", "update", f"--target=pr/{number}", f"--watermark-title={TITLE}"]
        words += ["--publish=false", str(path)]  # pictures are published already, and on no public host
        subprocess.run(words, check=True, capture_output=True, timeout=forge.params.longest_wait)
    posted = find_report(forge, number)
    if posted is None or body.split("\n", 1)[0] not in posted.comment.body:
        raise ForgeError(
            "cml posted a report that is not the bot's",
            remedy="unset SEKISHO_PUBLISHER, or give cml the App's token",
        )
    return posted.comment.id
