"""What a merge changed that calls for a release: everything but the records that merges leave themselves."""

from __future__ import annotations

from pathlib import Path

from sekisho.checkout import git_names

RECORDS = (  # as git's pathspecs: the bot's results, a promotion, a release, its signatures and its log
    "dvc.lock",
    "metrics",
    "deploy/policy/*/release.env",
    "releases/audit.jsonl",
    "releases/*/bundles/*",
)
ENTRY = "releases/*/*/*"  # files of a release's own folder; a rollback's origin/ lies deeper and is signed


def unreleased(repo: Path, since: str) -> list[str]:
    """Files that changed from commit ``since`` to the one that is checked out, but for records.

    Raises:
        CannotCheck: no such commit here.
    """
    left_out = [f":(exclude){path}" for path in RECORDS] + [f":(exclude,glob){ENTRY}"]
    return git_names(repo, "diff", "--name-only", "-z", since, "HEAD", "--", ".", *left_out)
