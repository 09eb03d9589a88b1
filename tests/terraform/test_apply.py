"""Each environment is applied for real, planned again without a change, judged live, and destroyed."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from terraform.offline import ENVIRONMENTS, TERRAFORM, Workspace
from tests.terraform import live
from tests.terraform.roles import rendered, rows
from tests.terraform.tool import GAPS, lay_gaps, moto, needs_terraform, resources

pytestmark = [pytest.mark.applied, needs_terraform]
MODULES = sorted(path.name for path in (TERRAFORM / "modules").iterdir())


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_an_environment_is_applied_planned_again_without_a_change_and_destroyed(environment, tmp_path, plans):
    data, platform = f"envs/{environment}/data", f"envs/{environment}/platform"
    with moto(tmp_path / "moto.log") as endpoint:
        workspace = Workspace(tmp_path, endpoint)
        workspace.env["TF_VAR_environment"] = environment
        lay_gaps(workspace)

        def apply(root: str) -> None:
            workspace.init(root)
            workspace.must(root, "apply", "-auto-approve")

        with ThreadPoolExecutor(2) as pool:  # S3 makes both wait a minute for its lifecycle rules
            list(pool.map(apply, ["bootstrap", data]))
        apply(platform)
        roots = [platform, data, "bootstrap"]
        made = [r for root in roots for r in resources(workspace.show(root)["values"]["root_module"])]
        assert len(made) > 150
        assert {part for r in made for part in re.findall(r"module\.(\w+)", r["address"])} >= set(MODULES) - {
            "bucket",  # its instances have names of their own
            "policies",  # makes nothing
            "pod_identities",  # nor can the server make any: pod_identities.override.tf
            "budget",  # the server can do none of it: budget.override.tf
        }
        for root in roots:
            again = workspace.run(root, "plan", "-detailed-exitcode")
            assert again.code == 0, f"{root} is not at rest after its apply:\n{again.output[-6000:]}"

        found = rendered([plans[f"bootstrap/{environment}"], plans[data], plans[platform]])
        asked = [row for row in rows(environment) if live.askable(row, found)]
        assert len(asked) >= 60
        assert {row.allowed for row in asked} == {True, False}
        assert not live.ask(endpoint, found, asked)
        empty_buckets(endpoint)

        for root in roots:
            workspace.must(root, "destroy", "-auto-approve")
            assert "values" not in workspace.show(root)


def empty_buckets(endpoint):
    """The live rows left objects, and Terraform does not destroy a bucket that holds one."""
    s3 = live.client(endpoint, "s3")
    for bucket in [b["Name"] for b in s3.list_buckets()["Buckets"]]:
        s3.delete_bucket_policy(Bucket=bucket)  # it denies erasure to everyone
        listing = s3.list_object_versions(Bucket=bucket)
        for version in listing.get("Versions", []) + listing.get("DeleteMarkers", []):
            s3.delete_object(Bucket=bucket, Key=version["Key"], VersionId=version["VersionId"])


def gaps():
    """Each block of the overrides: module, type, name, its text, and its file without it."""
    found = []
    for path in sorted(GAPS.glob("*.tf")):
        text = path.read_text()
        for block in re.finditer(r'(?ms)^# (.*?)^resource "(\w+)" "(\w+)" \{.*?^\}\n?', text):
            if not block.group(1).startswith("Not a gap"):
                rest = text[: block.start()] + text[block.end() :]
                found.append((path.name.split(".")[0], block.group(2), block.group(3), block.group(), rest))
    return found


STACKS = {"replication": "data"}  # every other override is of the platform's modules


def test_every_override_names_its_gap():
    blocks = sum(
        path.read_text().count("\nresource ") + path.read_text().startswith("resource ")
        for path in GAPS.glob("*.tf")
    )
    # what a test must be able to destroy is no gap
    permitted = (GAPS / "bucket.override.tf").read_text().count("\nresource ")
    assert len(gaps()) + permitted == blocks


def test_every_gap_of_the_server_is_still_one(tmp_path):
    """An override that the server no longer needs must go."""
    closed = []
    with moto(tmp_path / "moto.log") as endpoint:
        workspace = Workspace(tmp_path, endpoint)
        lay_gaps(workspace)
        for stack, target in (
            (
                "data",
                [
                    "-target=module.data.module.replication",
                    "-target=module.data.module.logs.aws_s3_bucket.this",
                ],
            ),
            ("platform", []),
        ):
            workspace.init(f"envs/staging/{stack}")
            workspace.must(f"envs/staging/{stack}", "apply", "-auto-approve", *target)
        for module, kind, name, block, rest in gaps():
            stack = STACKS.get(module, "platform")
            root = f"envs/staging/{stack}"
            override = workspace.folder(f"modules/{module}") / "moto_override.tf"
            state = workspace.folder(root) / "terraform.tfstate"
            whole, saved = override.read_text(), state.read_bytes()
            override.write_text(rest)
            target = f"-target=module.{stack}.module.{module}.{kind}.{name}"
            if "ignore_changes" in block:  # what the server forgets must show as a change
                again = workspace.run(root, "plan", "-detailed-exitcode", target)
            else:  # what it lacks must fail, or come to no rest
                again = workspace.run(root, "apply", "-auto-approve", target)
                if again.code == 0:
                    again = workspace.run(root, "plan", "-detailed-exitcode", target)
            if again.code == 0:
                closed.append(f"{module}.override.tf: {kind}.{name}")
            override.write_text(whole)
            state.write_bytes(saved)
    assert not closed, f"the server can do this now, delete the overrides: {closed}"
