"""Failed workflow runs: run again what failed, and tell people about what keeps failing.

One mechanism for every workflow: notify.yml calls this when a run has ended, so that it also hears of a
machine that was lost, a time limit or a step before anything was installed.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from typing import Any

import httpx

from sekisho.errors import CannotCheck, ForgeError
from sekisho.forge.github import GitHubForge
from sekisho.forge.markdown import one_line, quoted
from sekisho.forge.rest import NOT_FOUND

PURPOSE = re.compile(r" for #([1-9]\d{0,9})(?: \([A-Za-z0-9-]*\))?$")  # end of the run-name, of main's file
STAMP = re.compile(r"^\ufeff?\d{4}-\d\d-\d\dT[\d:.]+Z ", re.MULTILINE)
ENDED = re.compile(r"^##\[error\]Process completed with exit code (\d+)", re.MULTILINE)
REFUSED = 1  # exit code of what judges: the same again after any wait. DVC's for a network that failed, too
JUDGES = re.compile(r"Run (\.venv/bin/sekisho|git diff --exit-code) ")  # a step without a name bears its line
CANCELLED = "cancelled"
TIMED_OUT = "exceeded the maximum execution time"  # GitHub calls such a job cancelled
LAST_LINES, LONGEST_LINE = 20, 300
TITLED = ("workflow_dispatch", "issue_comment", "workflow_run")  # events whose run-name we write ourselves

Json = dict[str, Any]


@dataclass(frozen=True)
class Failure:
    """One failed job: the step, why GitHub ended it (if so), what it said last, its exit code (if any)."""

    job: str
    step: str
    cause: str
    lines: str
    exit_code: int | None


def settle(forge: GitHubForge, run: Json, webhook: str | None) -> str:
    """Run the failed jobs of a run again, or tell about them; ``run`` as in a ``workflow_run`` event.

    Again: up to ``forge.reruns`` times, later each time, unless a step judged and refused, people or a later
    run stopped it (not its time limit), or it is a pull request's own run, whose author sees it and pushes.
    Returns what was done.

    Raises:
        CannotCheck: there is nobody to tell: no pull request and no webhook.
        ForgeError: GitHub or the chat did not take it.
    """
    failures = failures_of(forge, run)
    attempt = int(run["run_attempt"])
    stopped = run["conclusion"] == CANCELLED and not any(TIMED_OUT in f.cause for f in failures)
    refused = any(f.exit_code == REFUSED and JUDGES.match(f.step) for f in failures)
    again = run["event"] != "pull_request" and not stopped and not refused
    if again and attempt <= forge.params.reruns:
        time.sleep(forge.params.rerun_wait * 4.0 ** (attempt - 1))
        forge.rest.ask("POST", f"/actions/runs/{run['id']}/rerun-failed-jobs")
        return f"run {run['id']} of {run['name']}: failed jobs run again, after attempt {attempt}"
    number, text = pull_request_of(forge, run), message(run, failures)
    if number is None and not webhook:
        raise CannotCheck(
            "a failed run with nobody to tell", remedy="set the secret NOTIFY_WEBHOOK in the environment bot"
        )
    if number is not None:
        forge.upsert_comment(number, f"failed-{marker_of_workflow(run)}", text)
    if webhook:
        post(webhook, text, forge.params.timeout)
    return f"run {run['id']} of {run['name']}: told " + " and ".join(
        filter(None, [f"pull request {number}" if number else "", "the chat" if webhook else ""])
    )


def failures_of(forge: GitHubForge, run: Json) -> list[Failure]:
    """The jobs of the run's last attempt that did not succeed, each with the last lines of its log."""
    address = f"/actions/runs/{run['id']}/attempts/{run['run_attempt']}/jobs"
    jobs = forge.rest.ask("GET", address, params={"per_page": "100"}).json()["jobs"]
    found = []
    for job in jobs:
        if job["conclusion"] not in ("success", "skipped", "neutral"):
            steps = [
                s["name"] for s in job.get("steps") or [] if s["conclusion"] not in ("success", "skipped")
            ]
            cause = _cause(forge, job) if job["conclusion"] == CANCELLED else ""
            step = next(iter(steps), "(none)")
            found.append(Failure(job["name"], step, cause, *_last_words(forge, job["id"])))
    return found


def _cause(forge: GitHubForge, job: Json) -> str:
    """Why GitHub ended a job: its time limit, a person, or a later run of the same concurrency group."""
    told = forge.rest.ask("GET", f"/check-runs/{job['id']}/annotations", allow=(NOT_FOUND,))
    notes = told.json() if told.is_success else []
    return "; ".join(
        one_line(note["message"] or "") for note in notes if note["annotation_level"] == "failure"
    )


def _last_words(forge: GitHubForge, job: int) -> tuple[str, int | None]:
    """The lines of a job's log before its first failed step ended, and that step's exit code."""
    answer = forge.rest.ask("GET", f"/actions/jobs/{job}/logs", allow=(302, 410, NOT_FOUND))
    if answer.status_code == 302:  # a signed address on another host, which must not see the token
        answer = httpx.get(answer.headers["location"], timeout=forge.params.timeout)
    if not answer.is_success:
        return "(GitHub has no log of it)", None
    log = STAMP.sub("", answer.text.replace("\r\n", "\n"))
    end = ENDED.search(log)
    lines = [line for line in log[: end.start() if end else None].split("\n") if line.strip()]
    kept = [one_line(line, LONGEST_LINE) for line in lines[-LAST_LINES:] if not line.startswith("##[")]
    return "\n".join(kept), int(end[1]) if end else None


def pull_request_of(forge: GitHubForge, run: Json) -> int | None:
    """The pull request that the run was for, None for a scheduled one."""
    if run["event"] == "pull_request":
        return next((int(pull["number"]) for pull in run["pull_requests"]), None)
    if run["event"] == "push":
        pulls = forge.rest.ask("GET", f"/commits/{run['head_sha']}/pulls").json()
        return next((int(p["number"]) for p in pulls if p["merge_commit_sha"] == run["head_sha"]), None)
    named = PURPOSE.search(run["display_title"]) if run["event"] in TITLED else None
    return int(named[1]) if named else None


def message(run: Json, failures: list[Failure]) -> str:
    """What people read: which run, where it stands, and the last lines as text that does nothing."""
    parts = [f"**{one_line(run['name'])}** ended as {run['conclusion']}: {run['html_url']}"]
    for failure in failures:
        cause = f" ({quoted(failure.cause)})" if failure.cause else ""
        parts.append(f"{one_line(failure.job)}, step “{one_line(failure.step)}”{cause}:")
        lines = failure.lines.replace("```", "'''")  # no fence ends before ours
        parts.append(f"```text\n{lines}\n```")
    return "\n\n".join(parts)


def marker_of_workflow(run: Json) -> str:
    """Name of the workflow's file, so that a second failure updates the first one's comment."""
    return re.sub(r"[^a-z0-9-]+", "-", run["path"].rpartition("/")[2].removesuffix(".yml").lower())


def tell_failures(workflow: str, failures: str, webhook: str | None, timeout: float) -> str:
    """Tell the chat which steps of an Argo workflow failed; ``failures``: Argo's ``{{workflow.failures}}``.

    Returns what was done.

    Raises:
        CannotCheck: not such a list, or there is no webhook.
        ForgeError: the chat did not take it.
    """
    try:
        found = json.loads(failures)
        found = json.loads(found) if isinstance(found, str) else found  # Argo quotes the list once more
        lines = [
            f"{one_line(one['displayName'])}: {one_line(one.get('message') or one['phase'], LONGEST_LINE)}"
            for one in found
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise CannotCheck(
            "--failures: not Argo's list of failures", remedy="give {{workflow.failures}}"
        ) from error
    if not webhook:
        raise CannotCheck(
            f"{workflow} failed, with nobody to tell: " + "; ".join(lines),
            remedy="set NOTIFY_WEBHOOK, on the cluster by the secret notify",
        )
    text = "\n".join(lines or ["no step: it was stopped, or ran out of time"]).replace("```", "'''")
    post(webhook, f"**{one_line(workflow)}** failed on the cluster:\n\n```text\n{text}\n```", timeout)
    return f"workflow {workflow}: told the chat"


def post(webhook: str, text: str, timeout: float) -> None:
    """Say it in the chat, by an incoming webhook of Slack's form."""
    try:
        httpx.post(webhook, json={"text": text}, timeout=timeout).raise_for_status()
    except httpx.HTTPError as error:  # the address itself is a secret
        raise ForgeError(
            f"the chat did not take the message: {type(error).__name__}", remedy="check NOTIFY_WEBHOOK"
        ) from None
