"""``sekisho pr``: pull requests on the forge that ``SEKISHO_FORGE`` names."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sekisho.cli.terminal import json_option, show
from sekisho.errors import CannotCheck
from sekisho.params import load_params

if TYPE_CHECKING:
    from sekisho.forge.interface import Forge

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)


@click.group("pr")
def pr() -> None:
    """Pull requests: open, report, comment, command, merge.

    SEKISHO_FORGE names the forge: local:<folder> (SEKISHO_ACTOR acts) or github:<owner>/<repository>
    (GITHUB_TOKEN's account acts).
    """


@pr.command("open")
@click.option("--branch", required=True, help="Branch to merge, already pushed.")
@click.option("--title", required=True)
@click.option("--body-file", type=FILE, help="Markdown of the description.")
@click.option("--key", help="Cause; the open request of the same key is updated instead of a second one.")
@click.option("--base", default="main", show_default=True, help="Branch to merge into.")
@json_option
def open_(branch: str, title: str, body_file: Path | None, key: str | None, base: str, as_json: bool) -> None:
    """Open a pull request, or update the open one of the same branch; prints its number."""
    body = body_file.read_text(encoding="utf-8") if body_file else ""
    number = _forge().open_pull_request(branch, title, body, key, base)
    _say(as_json, str(number), number=number)


@pr.command("list")
@click.option(
    "--state", type=click.Choice(["open", "merged", "closed", "all"]), default="open", show_default=True
)
@json_option
def list_(state: Any, as_json: bool) -> None:
    """List pull requests."""
    pulls = _forge().list_pull_requests(state)
    lines = [f"{p.number:>5}  {p.state:<7} {p.branch} → {p.base}  {p.title} ({p.author})" for p in pulls]
    _say(as_json, "\n".join(lines) or f"no pull request is {state}", pulls=[asdict(p) for p in pulls])


@pr.command("show")
@click.argument("number", type=int)
@json_option
def show_(number: int, as_json: bool) -> None:
    """Show a pull request, its comments, and what is missing for its merge."""
    from sekisho.forge.commands import explanation

    forge = _forge()
    pull, comments = forge.get_pull_request(number), forge.comments(number)
    thread = "\n".join(f"--- {c.author} (comment {c.id}, {c.created_at})\n{c.body}" for c in comments)
    text = "" if as_json else f"{pull.title} (#{number})\n{pull.url}\n{explanation(forge, pull)}\n{thread}"
    _say(as_json, text, **asdict(pull), comments=[asdict(c) for c in comments])


@pr.command("status")
@click.argument("number", type=int)
@json_option
def status(number: int, as_json: bool) -> None:
    """Say what is missing for the merge; marks a report as stale when the head moved since."""
    from sekisho.forge.approvals import blockers
    from sekisho.forge.commands import explanation
    from sekisho.forge.report import mark_stale

    forge = _forge()
    stale = mark_stale(forge, number)
    pull = forge.get_pull_request(number)
    text = "" if as_json else explanation(forge, pull)
    missing = blockers(forge, pull) if as_json else []
    _say(as_json, text, state=pull.state, head_sha=pull.head_sha, stale=stale, blockers=missing)


@pr.command("report")
@click.argument("number", type=int)
@click.option("--from", "folder", type=FOLDER, default=Path(), show_default=True, help="Reproduced checkout.")
@click.option("--head", help="Commit that was reproduced. [default: the one that the checkout is at]")
@json_option
def report(number: int, folder: Path, head: str | None, as_json: bool) -> None:
    """Post the backtest report of the head, or update it in place.

    Refused when the head is another than the commit that was reproduced, its results committed or not.
    """
    from sekisho.checkout import checked_out
    from sekisho.forge.report import publish_report

    digest, ids = publish_report(_forge(), number, folder, head or checked_out(folder)[0])
    text = f"report {digest[:12]}… posted on pull request {number} in {len(ids)} comment(s)"
    _say(as_json, text, number=number, report_sha256=digest, comments=ids)


@pr.command("results")
@click.argument("number", type=int)
@click.option("--from", "folder", type=FOLDER, default=Path(), show_default=True, help="Reproduced checkout.")
@click.option("--head", help="Commit that was reproduced. [default: the one that the checkout is at]")
@json_option
def results(number: int, folder: Path, head: str | None, as_json: bool) -> None:
    """Commit dvc.lock and metrics of a reproduced checkout to the pull request's branch.

    Refused when the head is no longer the commit that was reproduced.
    """
    from sekisho.checkout import checked_out
    from sekisho.forge.propose import commit_results

    made = commit_results(_forge(), number, folder, head or checked_out(folder)[0])
    text = f"results committed: the head is {made}" if made else "the head holds these results already"
    _say(as_json, text, number=number, head_sha=made)


@pr.command("plans")
@click.argument("number", type=int)
@click.option("--head", required=True, help="Commit that was planned.")
@click.option("--from", "folder", type=FOLDER, default=Path("plans"), show_default=True)
@json_option
def plans(number: int, head: str, folder: Path, as_json: bool) -> None:
    """Post Terraform's plans of the head, or update them in place; what looks like a secret is refused."""
    from sekisho.forge.plans import publish_plans

    ids = publish_plans(_forge(), number, head, folder)
    text = f"plans posted on pull request {number} in {len(ids)} comment(s)"
    _say(as_json, text, number=number, comments=ids)


@pr.command("propose")
@click.argument("paths", nargs=-1, required=True)
@click.option("--branch", required=True, help="Branch to make, or to add a commit to.")
@click.option("--title", required=True, help="Of the commit and the pull request.")
@click.option("--body", default="", help="Markdown of the description.")
@click.option("--key", help="Cause; see `sekisho pr open`.")
@click.option("--exclusive", is_flag=True, help="Refuse when the branch's open request proposes otherwise.")
@click.option("--replaces", metavar="BRANCH", help="Close the open request of BRANCH that has the same key.")
@json_option
def propose(paths: tuple[str, ...], as_json: bool, **words: Any) -> None:
    """Commit what changed under PATHS of this checkout to a branch and open its pull request."""
    from sekisho.forge.propose import Proposal
    from sekisho.forge.propose import propose as run

    number = run(_forge(), Path(), paths, Proposal(**words))
    _say(as_json, str(number), number=number)


@pr.command("remote")
@click.argument("number", type=int)
@json_option
def remote(number: int, as_json: bool) -> None:
    """Point this checkout's DVC remote pull-request at the pull request's own folder."""
    from sekisho.forge.quarantine import use_remote

    url = use_remote(Path(), number)
    _say(as_json, url, number=number, url=url)


@pr.command("push")
@click.argument("number", type=int)
@click.option("--base", default="origin/main", show_default=True, help="What differs from it is pushed.")
@json_option
def push(number: int, base: str, as_json: bool) -> None:
    """Push the pipeline's outputs to the pull request's own folder, never to production's."""
    from sekisho.forge.quarantine import push as run

    targets = run(Path(), number, base)
    _say(as_json, f"pushed for pull request {number}: {', '.join(targets) or 'nothing'}", targets=targets)


@pr.command("admit")
@click.argument("numbers", type=int, nargs=-1)
@json_option
def admit(numbers: tuple[int, ...], as_json: bool) -> None:
    """Take what this checkout's dvc.lock names into the production remote, each file by its digest.

    From the folders of the pull requests NUMBERS. [default: those merged since the newest release]
    """
    from sekisho.forge.quarantine import admit as run
    from sekisho.forge.quarantine import merged_since_release

    found = list(numbers) or merged_since_release(_forge(), Path())
    targets = run(Path(), found)
    looked = ", ".join(map(str, found)) or "none"
    text = f"admitted: {', '.join(targets) or 'nothing, all was there'} (pull requests: {looked})"
    _say(as_json, text, numbers=found, targets=targets)


@pr.command("unreleased")
@click.option("--since", required=True, metavar="COMMIT", help="Commit before the merge.")
@json_option
def unreleased(since: str, as_json: bool) -> None:
    """List what changed since COMMIT and calls for a release; records of releases and promotions do not."""
    from sekisho.release.unreleased import unreleased as run

    paths = run(Path(), since)
    _say(as_json, "\n".join(paths) or "nothing but records changed: no release", paths=paths)


@pr.command("comment")
@click.argument("number", type=int)
@click.option("--body", required=True, help="Markdown.")
@click.option("--marker", help="Update this account's comment of that marker instead of adding one.")
@json_option
def comment(number: int, body: str, marker: str | None, as_json: bool) -> None:
    """Comment on a pull request; prints the comment's id."""
    forge = _forge()
    made = forge.upsert_comment(number, marker, body)[0] if marker else forge.add_comment(number, body)
    _say(as_json, str(made), number=number, comment=made)


@pr.command("command")
@click.argument("number", type=int, required=False)
@click.argument("comment_id", type=int, required=False)
@click.option("--event", type=FILE, help="GitHub's event file instead of the two numbers.")
@json_option
def command(number: int | None, comment_id: int | None, event: Path | None, as_json: bool) -> None:
    """Judge the command in a comment, act, and answer on the pull request.

    Exits 1 when it was refused; with --event 0 whenever the comment was answered, also by a refusal.
    """
    from sekisho.calendar import Calendar
    from sekisho.forge.commands import handle

    number, comment_id = _from_event(event) if event else (number, comment_id)
    if number is None or comment_id is None:
        raise click.UsageError("give NUMBER and COMMENT_ID, or --event FILE")
    forge = _forge()
    found = next((c for c in forge.comments(number) if c.id == comment_id), None)
    if found is None:
        raise CannotCheck(
            f"pull request {number} has no comment {comment_id}", remedy="see `sekisho pr show`"
        )
    data = load_params().data
    outcome = handle(forge, number, found, Calendar(data.calendar, data.bar))
    _say(as_json, f"/{outcome.command}: {outcome.status}. {outcome.message}", **asdict(outcome))
    if outcome.status == "refused" and not event:
        sys.exit(1)


@pr.command("recheck")
@click.argument("number", type=int)
@click.option("--release", required=True, help="MODEL/SEQ that is to be promoted.")
@click.option("--environment", type=click.Choice(["staging", "production"]), required=True)
@click.option("--key", default="", help="What the workflow was started for: comment-<id>.")
@json_option
def recheck(number: int, as_json: bool, **words: str) -> None:
    """Judge a promotion once more, right before it is signed: its comment, its author's right, the hour."""
    import datetime as dt

    from sekisho.calendar import Calendar
    from sekisho.forge.recheck import Promotion
    from sekisho.forge.recheck import recheck as run

    data = load_params().data
    calendar, now = Calendar(data.calendar, data.bar), dt.datetime.now(dt.UTC)
    reason = run(_forge(), Promotion(number, **words), calendar, now)
    _say(as_json, f"may be promoted to {words['environment']}: {reason}", number=number, reason=reason)


@pr.command("stage")
@click.option("--merge-commit", required=True, help="Merge of a pull request that recorded a release.")
@json_option
def stage(merge_commit: str, as_json: bool) -> None:
    """Start the promotion to staging of the release that a merge recorded; another merge starts nothing."""
    from sekisho.forge.commands import RELEASE_BRANCH
    from sekisho.forge.recheck import release_pull

    forge = _forge()
    number = _merged_as(forge, merge_commit)
    found = RELEASE_BRANCH.fullmatch(forge.get_pull_request(number).branch)
    if found is None:
        _say(as_json, f"pull request {number} recorded no release: nothing to promote", number=number)
        return
    release_pull(forge, number)
    inputs = {"number": str(number), "release": found[1], "environment": "staging"}
    said = forge.start("promote.yml", inputs | {"reason": "first promotion"}, f"merge-{merge_commit}")
    _say(as_json, f"{found[1]} goes to staging. {said}", number=number, release=found[1])


@pr.command("merge")
@click.argument("number", type=int)
@json_option
def merge(number: int, as_json: bool) -> None:
    """Merge a pull request whose head is approved, passed the gate and is described by its dvc.lock."""
    from sekisho.forge.approvals import merge as merge_pull_request

    sha = merge_pull_request(_forge(), number)
    _say(as_json, f"pull request {number} merged as {sha}", number=number, merge_sha=sha)


@pr.command("approval")
@click.argument("number", type=int, required=False)
@click.option("--merge-commit", help="The request that was merged as this commit, instead of NUMBER.")
@click.option("--out", type=FILE, required=True, help="File to write.")
@json_option
def approval(number: int | None, merge_commit: str | None, out: Path, as_json: bool) -> None:
    """Write the approval record of a pull request, which `sekisho sign` attests."""
    from sekisho.forge.approvals import approval_record
    from sekisho.release.audit import write_atomically

    forge = _forge()
    if number is None:
        number = _merged_as(forge, merge_commit)
    record = approval_record(forge, number)
    write_atomically(out, f"{json.dumps(record, indent=1, sort_keys=True)}\n".encode())
    _say(as_json, f"approval of {record['head_sha']} by {record['approver']} → {out}", **record)


def _forge() -> Forge:
    from sekisho.forge import open_forge

    return open_forge(load_params().forge)


def _merged_as(forge: Forge, merge_commit: str | None) -> int:
    """The pull request that was merged as this commit."""
    merged = [p.number for p in forge.list_pull_requests("merged") if p.merge_sha == merge_commit]
    if not merge_commit or not merged:
        raise CannotCheck(
            f"no pull request was merged as {merge_commit}", remedy="merge by `sekisho pr merge`"
        )
    return merged[0]


def _from_event(path: Path) -> tuple[int, int]:
    """Numbers of the pull request and the comment in an ``issue_comment`` event."""
    try:
        event = json.loads(path.read_text(encoding="utf-8"))
        if "pull_request" not in event["issue"]:
            raise CannotCheck("the comment is on an issue", remedy="commands work on pull requests only")
        return int(event["issue"]["number"]), int(event["comment"]["id"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CannotCheck(f"{path}: not an issue_comment event", remedy="give GITHUB_EVENT_PATH") from error


def _say(as_json: bool, text: str, **values: object) -> None:
    show(values, text, as_json)
