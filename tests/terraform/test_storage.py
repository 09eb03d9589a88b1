"""What ages stays readable by whoever reads it at once; what must outlive everything cannot be destroyed."""

from __future__ import annotations

import pytest
import yaml
from terraform.offline import ENVIRONMENTS, TERRAFORM, Workspace
from tests.terraform.roles import NAMES
from tests.terraform.tool import moto, needs_terraform, resources

pytestmark = needs_terraform
ASYNCHRONOUS = {"GLACIER", "DEEP_ARCHIVE", "INTELLIGENT_TIERING"}  # the last has archive tiers
NO_INVENTORY = {
    "audit-copy",
    "state",
}  # another region's, with a default lock; three objects, before any other bucket


def made(plans, root):
    return list(resources(plans[root]["planned_values"]["root_module"]))


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_a_role_reads_at_once_whatever_its_grants_let_it_read(plans, env):
    """GetObject of an object in Deep Archive fails until somebody who may restore it has."""
    table = yaml.safe_load((TERRAFORM / "roles.yaml").read_text())
    ages = {}
    for found in made(plans, f"envs/{env}/data"):
        if found["type"] == "aws_s3_bucket_lifecycle_configuration":
            moves = [t["storage_class"] for rule in found["values"]["rule"] for t in rule["transition"] or []]
            ages[found["values"]["bucket"].removeprefix(f"{NAMES[env]}-")] = set(moves)
    assert ages["audit"] & ASYNCHRONOUS
    late = []
    for role, row in table.items():
        granted = {(g["class"], g["prefix"], g["access"]) for g in row.get("grants", [])}
        for kind, prefix, access in granted:
            if access == "read" and ages[kind] & ASYNCHRONOUS and (kind, prefix, "restore") not in granted:
                late.append(f"{role}: {kind}/{prefix}")
    assert not late


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_every_bucket_is_inventoried_but_those_with_a_reason(plans, env):
    found = [r for root in (f"envs/{env}/data", f"bootstrap/{env}") for r in made(plans, root)]
    names = {r["values"]["bucket"] for r in found if r["type"] == "aws_s3_bucket"}
    listed = {r["values"]["bucket"] for r in found if r["type"] == "aws_s3_bucket_inventory"}
    assert names - listed == {f"{NAMES[env]}-{kind}" for kind in NO_INVENTORY}


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_the_copy_of_the_audit_trail_is_measured_and_watched(plans, env):
    data = made(plans, f"envs/{env}/data")
    (rule,) = [r["values"]["rule"][0] for r in data if r["type"] == "aws_s3_bucket_replication_configuration"]
    assert (rule["status"], rule["destination"][0]["metrics"][0]["status"]) == ("Enabled", "Enabled")
    copy = {
        "SourceBucket": f"{NAMES[env]}-audit",
        "DestinationBucket": f"{NAMES[env]}-audit-copy",
        "RuleId": rule["id"],
    }
    alarms = [
        r["values"] for r in made(plans, f"envs/{env}/platform") if r["type"] == "aws_cloudwatch_metric_alarm"
    ]
    watched = {alarm["metric_name"] for alarm in alarms if alarm.get("dimensions") == copy}
    assert watched == {"OperationsFailedReplication", "ReplicationLatency"}


@pytest.mark.applied
def test_what_holds_the_audit_trail_cannot_be_destroyed(tmp_path):
    """The code as it is, without the override that lets other tests clean up."""
    root, bucket = "envs/staging/data", 'module.data.module.bucket["audit"]'
    kept = [
        f"{bucket}.aws_s3_bucket.this",
        f"{bucket}.aws_kms_key.this",
        f"{bucket}.aws_s3_bucket_policy.this",
        f"{bucket}.aws_s3_bucket_versioning.this",
        f"{bucket}.aws_s3_bucket_object_lock_configuration.this",
        "module.data.module.replication.aws_s3_bucket_replication_configuration.this",
    ]
    with moto(tmp_path / "moto.log") as endpoint:
        workspace = Workspace(tmp_path, endpoint)
        workspace.init(root)
        workspace.must(root, "apply", "-auto-approve")
        for address in kept:
            refused = workspace.run(root, "destroy", "-auto-approve", f"-target={address}")
            assert refused.code == 1, address
            assert "Instance cannot be destroyed" in refused.text
