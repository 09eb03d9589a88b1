"""The verbs of the release room: export, sign, verify, promote, rollback, revoke."""

from __future__ import annotations

import getpass
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sekisho.cli.terminal import json_option, show
from sekisho.errors import CannotCheck
from sekisho.params import load_params
from sekisho.pointer import RELEASE, pointer_path

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from sekisho.release.signer import Desk

ROOT = Path()  # commands run at the root of the repository
ENVIRONMENTS = click.Choice(["local", "staging", "production"])

trust_option = click.option(
    "--trust", type=click.Path(path_type=Path), default=Path("trust"), show_default=True, help="Trust folder."
)
environment_option = click.option(
    "--environment",
    type=ENVIRONMENTS,
    required=True,
    help="Whose trust policy must hold.",
)
authority_option = click.option(
    "--authority",
    type=click.Choice(["local", "github"]),
    help="Who certifies the signer. [default: github in GitHub Actions, else local]",
)
folder_option = click.option(
    "--authority-folder",
    type=click.Path(path_type=Path),
    help="Where the local authority keeps its keys. [default: .sekisho/local-authority]",
)


def release_folder(name: str) -> Path:
    """A release by MODEL/SEQ, which is always the one under releases/, or by any other path of a folder."""
    return ROOT / "releases" / name if RELEASE.fullmatch(name) else Path(name)


def complete_releases(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Releases of this checkout, as MODEL/SEQ."""
    from click.shell_completion import CompletionItem

    folders = sorted(path.parent for path in ROOT.glob("releases/*/*/manifest.json"))
    names = [f"{folder.parent.name}/{folder.name}" for folder in folders]
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def acting() -> str:
    """Who acts: SEKISHO_ACTOR, else GitHub's actor, else the account on this machine."""
    return os.environ.get("SEKISHO_ACTOR") or os.environ.get("GITHUB_ACTOR") or getpass.getuser()


def _desk(trust: Path, authority: str | None, folder: Path | None) -> Desk:
    from sekisho.release.signer import LOCAL_FOLDER, Desk, default_authority

    return Desk(
        repo=ROOT,
        trust=trust,
        authority=authority or default_authority(),  # type: ignore[arg-type]  # click checked the choice
        local_folder=folder or LOCAL_FOLDER,
        actor=acting(),
        params=load_params().release,
    )


@click.command()
@click.option("--cache/--no-cache", default=True, show_default=True, help="Give the content to DVC's cache.")
@json_option
def export(cache: bool, as_json: bool) -> None:
    """Assemble the candidate's release under releases/MODEL/SEQ."""
    from sekisho.release.export import export_release, store_in_dvc
    from sekisho.release.manifest import read_manifest

    folder = export_release(ROOT, load_params(), acting())
    if cache:
        store_in_dvc(folder)
    manifest, digest = read_manifest(folder)
    value = {"folder": str(folder), "model": manifest.model, "seq": manifest.seq, "digest": digest}
    show(value, f"exported {folder} sha256:{digest}", as_json)


@click.command()
@click.argument("release", required=False, shell_complete=complete_releases)
@click.option("--approval", type=click.Path(path_type=Path), help="The merged PR's approval record.")
@click.option("--init-local", is_flag=True, help="Only make the local authority and its trust root.")
@trust_option
@authority_option
@folder_option
@json_option
def sign(
    release: str | None,
    approval: Path | None,
    init_local: bool,
    trust: Path,
    authority: str | None,
    authority_folder: Path | None,
    as_json: bool,
) -> None:
    """Sign provenance, evaluation, data and approval of RELEASE (a folder or MODEL/SEQ), or none of them."""
    from sekisho.release.revoke import ensure_local_list
    from sekisho.release.sign import sign_release
    from sekisho.release.signer import install_local_root

    desk = _desk(trust, authority, authority_folder)
    if init_local or desk.authority == "local":
        root = install_local_root(trust, desk.local_folder)
        ensure_local_list(desk)
    if init_local:
        show({"trusted_root": str(root)}, f"local authority ready; its root is {root}", as_json)
        return
    if release is None or approval is None:
        raise click.UsageError("RELEASE and --approval FILE are needed")
    folder = release_folder(release)
    already = (folder / "bundles").exists()
    facts = sign_release(desk, folder, approval)
    value = {name: {"workflow": fact.workflow, "bundle": fact.bundle_sha256} for name, fact in facts.items()}
    what = "is signed already, with this approval" if already else "signed"
    show(value, f"{release} {what}: {', '.join(facts)}", as_json)


@click.command()
@click.argument("release", shell_complete=complete_releases)
@environment_option
@trust_option
@click.option("--minimum-seq", type=int, default=0, show_default=True, help="Refuse an older release.")
@click.option("--deployed", is_flag=True, help="Also demand a promotion to the environment.")
@click.option(
    "--expect", metavar="POINTER", help="Refuse any release but MODEL/SEQ, or MODEL/SEQ@sha256:DIGEST."
)
@click.option(
    "--summary", type=click.Path(path_type=Path), help="Sign a verification summary into this file."
)
@authority_option
@folder_option
@json_option
def verify(
    release: str,
    environment: str,
    trust: Path,
    minimum_seq: int,
    deployed: bool,
    expect: str | None,
    summary: Path | None,
    authority: str | None,
    authority_folder: Path | None,
    as_json: bool,
) -> None:
    """Check RELEASE (a folder or MODEL/SEQ) against the trust policy; offline."""
    from sekisho.release.verify import verify_release

    folder = release_folder(release)
    done = verify_release(
        folder,
        trust=trust,
        environment=environment,
        minimum_seq=minimum_seq,
        deployed=deployed,
        expect=expect if expect is not None or not RELEASE.fullmatch(release) else release,
    )
    if summary:
        from sekisho.release.summary import write_summary

        write_summary(_desk(trust, authority, authority_folder), done, environment, summary)
    value = {
        "model": done.model,
        "seq": done.seq,
        "digest": done.digest,
        "environment": environment,
        "judged_again": done.judged_again,
        "facts": {
            name: {"workflow": fact.workflow, "commit": fact.commit, "bundle": fact.bundle_sha256}
            for name, fact in done.facts.items()
        },
    }
    line = f"verified {done.model}/{done.seq} sha256:{done.digest} for {environment}: {', '.join(done.facts)}"
    if not done.judged_again:
        line += "; another version of the gate gave the verdict: not judged again here"
    show(value, line, as_json)


@click.command()
@click.argument("release", shell_complete=complete_releases)
@environment_option
@click.option("--reason", default="promotion of an approved release", show_default=True)
@click.option("--soak", type=click.Path(path_type=Path), help="Verdict on the release where it ran before.")
@trust_option
@authority_option
@folder_option
@json_option
def promote(
    release: str,
    environment: str,
    reason: str,
    soak: Path | None,
    trust: Path,
    authority: str | None,
    authority_folder: Path | None,
    as_json: bool,
) -> None:
    """Point an environment at RELEASE: verify, sign the deployment, change one line."""
    from sekisho.release.promote import promote as run

    desk = _desk(trust, authority, authority_folder)
    done, before = run(desk, release_folder(release), environment, reason, soak)
    path = pointer_path(ROOT, environment)
    value = {
        "environment": environment,
        "model": done.model,
        "seq": done.seq,
        "digest": done.digest,
        "previous": str(before) if before else None,
        "pointer": str(path),
    }
    show(value, f"{path}: {before or 'nothing'} -> {done.model}/{done.seq}@sha256:{done.digest}", as_json)


@click.command()
@click.option("--to", type=int, required=True, metavar="SEQ", help="Release whose content returns.")
@click.option("--reason", required=True, help="Why; it is signed and logged.")
@environment_option
@trust_option
@click.option("--cache/--no-cache", default=True, show_default=True, help="Give the content to DVC's cache.")
@json_option
def rollback(to: int, reason: str, environment: str, trust: Path, cache: bool, as_json: bool) -> None:
    """Make a new release with an older one's content; it needs approval and signatures like any other."""
    from sekisho.release.export import store_in_dvc
    from sekisho.release.promote import rollback as run

    folder = run(_desk(trust, None, None), to, reason, environment)
    if cache:
        store_in_dvc(folder)
    show({"folder": str(folder)}, f"made {folder} with the content of seq {to}; open a PR with it", as_json)


@click.command()
@click.argument("release", required=False, shell_complete=complete_releases)
@click.option("--reason", default="", help="Why; it is signed and logged.")
@click.option("--renew", is_flag=True, help="Only give the list a new end.")
@environment_option
@trust_option
@authority_option
@folder_option
@json_option
def revoke(
    release: str | None,
    reason: str,
    renew: bool,
    environment: str,
    trust: Path,
    authority: str | None,
    authority_folder: Path | None,
    as_json: bool,
) -> None:
    """Add RELEASE to the signed revocation list, or renew the list."""
    from sekisho.release.revoke import revoke as run

    if renew == (release is not None) or (release and not reason):
        raise CannotCheck("give RELEASE with --reason, or --renew", remedy="see `sekisho revoke --help`")
    folder = release_folder(release) if release else None
    claim = run(_desk(trust, authority, authority_folder), folder, reason, environment)
    line = f"revocation list {claim.serial}: {len(claim.revoked)} revoked, runs out {claim.expires:%Y-%m-%d}"
    show(claim.model_dump(mode="json"), line, as_json)
