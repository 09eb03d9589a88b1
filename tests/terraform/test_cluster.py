"""Karpenter and the cluster as Terraform makes them: what a node needs to come up, and who pays for it."""

from __future__ import annotations

import json

import pytest
from terraform.offline import ACCOUNT, ENVIRONMENTS
from tests.terraform.iam import decide
from tests.terraform.roles import NAMES, REGION, rendered
from tests.terraform.tool import needs_terraform, resources

pytestmark = needs_terraform
TAGS = {"Project", "Environment", "Stack", "CostCenter", "ManagedBy"}


@pytest.fixture(params=ENVIRONMENTS)
def platform(request, plans):
    """Name of the cluster, and the resources of its plan."""
    root = plans[f"envs/{request.param}/platform"]["planned_values"]["root_module"]
    return NAMES[request.param], list(resources(root))


def of(made, kind):
    return [r["values"] for r in made if r["type"] == kind]


def test_karpenter_finds_subnets_and_the_clusters_security_group_by_one_tag(platform, plans):
    name, made = platform
    subnets = [s for s in of(made, "aws_subnet") if (s["tags"] or {}).get("karpenter.sh/discovery") == name]
    assert len(subnets) == 3
    (tag,) = of(made, "aws_ec2_tag")
    assert (tag["key"], tag["value"]) == ("karpenter.sh/discovery", name)
    env = next(env for env in ENVIRONMENTS if NAMES[env] == name)
    called = plans[f"envs/{env}/platform"]["configuration"]["root_module"]["module_calls"]
    eks = called["platform"]["module"]["module_calls"]["eks"]["module"]["resources"]
    (tagged,) = [r for r in eks if r["type"] == "aws_ec2_tag"]
    assert any(
        "vpc_config[0].cluster_security_group_id" in part
        for part in tagged["expressions"]["resource_id"]["references"]
    )


def test_the_nodes_role_is_let_in_by_eks_alone(platform):
    """The node group's role has an entry from EKS: a second one of ours would fail the apply."""
    name, made = platform
    node = f"arn:aws:iam::{ACCOUNT}:role/{name}-node"
    assert node not in {entry["principal_arn"] for entry in of(made, "aws_eks_access_entry")}


def test_what_the_node_group_launches_carries_the_cost_tags(platform):
    _, made = platform
    (template,) = of(made, "aws_launch_template")
    tagged = {s["resource_type"]: set(s["tags"]) for s in template["tag_specifications"]}
    assert set(tagged) == {"instance", "volume", "network-interface"}
    assert all(tags >= TAGS for tags in tagged.values())


def test_the_cni_enforces_network_policies_and_the_drivers_of_the_volumes_are_there(platform):
    _, made = platform
    addons = {
        addon["addon_name"]: json.loads(addon.get("configuration_values") or "{}")
        for addon in of(made, "aws_eks_addon")
    }
    assert addons["vpc-cni"]["enableNetworkPolicy"] == "true"
    assert set(addons) >= {
        "eks-pod-identity-agent",
        "aws-efs-csi-driver",
        "aws-mountpoint-s3-csi-driver",
        "coredns",
    }
    (files,) = of(made, "aws_efs_file_system")
    assert files["encrypted"]
    assert len(of(made, "aws_efs_mount_target")) == 3


def karpenter(plans, env, action, resource, **context):
    """What IAM answers Karpenter's controller."""
    found = rendered([plans[f"bootstrap/{env}"], plans[f"envs/{env}/data"], plans[f"envs/{env}/platform"]])
    given = {
        "aws:RequestedRegion": REGION,
        "aws:SecureTransport": "true",
        "aws:PrincipalIsAWSService": "false",
    }
    return decide(found.roles[f"{NAMES[env]}-karpenter"], action, resource, given | context).allowed


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_karpenter_can_do_what_its_chart_asks_for_and_only_to_its_own(plans, env):
    """Source of the requests: the CloudFormation template that Karpenter 1.8 documents."""
    name = NAMES[env]
    cluster = f"kubernetes.io/cluster/{name}"
    instance = f"arn:aws:ec2:{REGION}:{ACCOUNT}:instance/i-1"
    profile = f"arn:aws:iam::{ACCOUNT}:instance-profile/{name}_123"
    foreign = f"arn:aws:iam::{ACCOUNT}:instance-profile/administrators"
    spot = f"arn:aws:iam::{ACCOUNT}:role/aws-service-role/spot.amazonaws.com/AWSServiceRoleForEC2Spot"
    own = {f"aws:ResourceTag/{cluster}": "owned", "aws:ResourceTag/karpenter.sh/nodepool": "serving"}
    asked = {f"aws:RequestTag/{cluster}": "owned", "aws:RequestTag/eks:eks-cluster-name": name}
    node = asked | {"aws:RequestTag/karpenter.sh/nodepool": "serving"}
    named = asked | {
        "aws:RequestTag/topology.kubernetes.io/region": REGION,
        "aws:RequestTag/karpenter.k8s.aws/ec2nodeclass": "default",
    }
    kept = {
        f"aws:ResourceTag/{cluster}": "owned",
        "aws:ResourceTag/topology.kubernetes.io/region": REGION,
        "aws:ResourceTag/karpenter.k8s.aws/ec2nodeclass": "default",
    }
    rows = [
        (True, "iam:CreateInstanceProfile", profile, named),
        (False, "iam:CreateInstanceProfile", profile, {}),
        (True, "iam:TagInstanceProfile", profile, named | kept),
        (False, "iam:TagInstanceProfile", profile, named),
        (True, "iam:AddRoleToInstanceProfile", profile, kept),
        (True, "iam:GetInstanceProfile", profile, {}),
        (True, "iam:ListInstanceProfiles", "*", {}),
        (False, "iam:RemoveRoleFromInstanceProfile", foreign, {}),
        (False, "iam:DeleteInstanceProfile", foreign, {}),
        (True, "ec2:CreateTags", instance, own | {"aws:TagKeys": ["karpenter.sh/nodeclaim", "Name"]}),
        (False, "ec2:CreateTags", instance, own | {"aws:TagKeys": [cluster]}),
        (False, "ec2:CreateTags", instance, {"aws:TagKeys": ["Name"]}),
        (True, "ec2:RunInstances", instance, node),
        (False, "ec2:RunInstances", instance, {}),
        (True, "ec2:TerminateInstances", instance, own),
        (False, "ec2:TerminateInstances", instance, {f"aws:ResourceTag/{cluster}-other": "owned"}),
        (True, "iam:CreateServiceLinkedRole", spot, {"iam:AWSServiceName": "spot.amazonaws.com"}),
        (False, "iam:CreateServiceLinkedRole", spot, {"iam:AWSServiceName": "eks.amazonaws.com"}),
    ]  # fmt: skip
    wrong = [(row[1], row[2]) for row in rows if karpenter(plans, env, *row[1:3], **row[3]) != row[0]]
    assert not wrong
