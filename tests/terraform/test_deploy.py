"""What Terraform makes and the manifests in git fit: nodes, names, accounts, volumes, networks."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from terraform.cost import inputs
from terraform.offline import ENVIRONMENTS, TERRAFORM
from tests.terraform.roles import NAMES
from tests.terraform.tool import needs_terraform, resources

ROOT = TERRAFORM.parent
CLUSTERS = ROOT / "deploy/clusters"
HOURS = 730
TAGS = {"Project", "Environment", "Stack", "CostCenter", "ManagedBy"}

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")


def render(folder: Path) -> list[dict[str, Any]]:
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [thing for thing in yaml.safe_load_all(done.stdout) if thing]


def applications(env):
    return {
        o["metadata"]["name"]: o["spec"]
        for o in render(CLUSTERS / env / "argocd")
        if o["kind"] == "Application"
    }


def pools(env):
    return {
        o["metadata"]["name"]: o["spec"] for o in render(CLUSTERS / env / "nodes") if o["kind"] == "NodePool"
    }


def platform(plans, env, kind):
    found = resources(plans[f"envs/{env}/platform"]["planned_values"]["root_module"])
    return [r["values"] for r in found if r["type"] == kind]


def tolerates(tolerations, taint):
    return any(
        t.get("key") in (None, taint["key"])
        and (t.get("operator") == "Exists" or t.get("value") == taint["value"])
        and t.get("effect") in (None, taint["effect"])
        for t in tolerations
    )


def pods(thing):
    """Every part of an object that says where pods go."""
    if isinstance(thing, dict):
        if {"nodeSelector", "tolerations"} & set(thing):
            yield thing
        for value in thing.values():
            yield from pods(value)
    elif isinstance(thing, list):
        for value in thing:
            yield from pods(value)


def everything(env):
    """What the applications of a cluster hold: rendered for what is ours, the values of others' charts."""
    for name, spec in applications(env).items():
        path = spec["source"].get("path", "")
        if path.startswith("deploy/"):
            yield name, render(ROOT / path)
        elif "helm" in spec["source"]:
            yield name, spec["source"]["helm"]["valuesObject"]


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_every_pod_that_asks_for_a_pool_tolerates_all_of_its_taints(env):
    found = pools(env)
    by_label = {spec["template"]["metadata"]["labels"]["sekisho/pool"]: spec for spec in found.values()}
    asked = set()
    for name, thing in everything(env):
        for pod in pods(thing):
            if pool := (pod.get("nodeSelector") or {}).get("sekisho/pool"):
                asked.add(pool)
                for taint in by_label[pool]["template"]["spec"].get("taints", []):
                    assert tolerates(pod.get("tolerations", []), taint), (name, pool, taint)
    assert asked >= {"serving"}
    # whoever asks for none, the controllers from charts among them, goes to the one without a taint
    assert [name for name, spec in found.items() if not spec["template"]["spec"].get("taints")] == ["general"]


@needs_terraform
@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_argo_cd_runs_on_the_nodes_that_are_there_before_karpenter(env, plans, tmp_path):
    """The remote manifests cannot be fetched here: objects of the two kinds stand in their place."""
    copy = shutil.copytree(ROOT / "deploy/argocd/install", tmp_path / "install")
    text = (copy / "kustomization.yaml").read_text()
    (remote,) = [line.strip("- ") for line in text.splitlines() if "https://github.com/argoproj" in line]
    assert len(remote.partition("?ref=")[2]) == 40  # a commit: a tag can be moved
    (copy / "kustomization.yaml").write_text(text.replace(remote, "stand-in.yaml"))
    pod = {
        "metadata": {"labels": {"a": "b"}},
        "spec": {"nodeSelector": {"kubernetes.io/os": "linux"}, "containers": []},
    }
    objects = [
        {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": kind.lower()}, "spec": {"template": pod}}
        for kind in ("Deployment", "StatefulSet")
    ]
    (copy / "stand-in.yaml").write_text(yaml.safe_dump_all(objects))
    (group,) = platform(plans, env, "aws_eks_node_group")
    effects = {"NO_SCHEDULE": "NoSchedule"}
    taints = [t | {"effect": effects[t["effect"]]} for t in group["taint"]]
    assert taints
    for thing in (o for o in render(copy) if o["kind"] in ("Deployment", "StatefulSet")):
        spec = thing["spec"]["template"]["spec"]
        assert all(tolerates(spec["tolerations"], taint) for taint in taints)
        assert spec["nodeSelector"].items() >= group["labels"].items()
        assert thing["metadata"]["namespace"] == "argocd"


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_a_cluster_holds_its_own_environment_only(env):
    other = next(e for e in ENVIRONMENTS if e != env)
    found = applications(env)
    assert found["root"]["source"]["path"] == f"deploy/clusters/{env}/argocd"
    assert {f"policy-{env}", f"traffic-{env}", f"trust-{env}", "karpenter", "nodes", "volumes"} <= set(found)
    for spec in found.values():
        text = json.dumps(spec)
        assert f"sekisho-{other}" not in text
        assert f"clusters/{other}" not in text
        if path := spec["source"].get("path", "").removeprefix("deploy/"):
            assert spec["source"]["path"] == path or (ROOT / "deploy" / path).is_dir()
    spaces = {
        o["metadata"]["name"] for o in render(CLUSTERS / env / "namespaces") if o["kind"] == "Namespace"
    }
    assert f"sekisho-{env}" in spaces
    assert f"sekisho-{other}" not in spaces


def test_runners_and_the_night_are_registered_once():
    both = [set(applications(env)) for env in ENVIRONMENTS]
    assert not {name for name in both[0] & both[1] if name.startswith(("runners", "workflows"))}


@needs_terraform
@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_the_facts_in_git_are_those_that_terraform_publishes(env, plans):
    lines = (CLUSTERS / env / "facts/facts.env").read_text().splitlines()
    facts = dict(line.split("=", 1) for line in lines)
    published = {
        p["name"].removeprefix(f"/{NAMES[env]}/"): p.get("value")
        for p in platform(plans, env, "aws_ssm_parameter")
    }
    assert set(facts) <= set(published)
    known = {key: value for key, value in facts.items() if published[key] is not None}
    assert known == {key: published[key] for key in known}
    assert set(known) >= {"cluster-name", "interruption-queue", "node-role", "releases-bucket", "environment"}
    values = applications(env)["karpenter"]["source"]["helm"]["valuesObject"]["settings"]
    assert values == {"clusterName": facts["cluster-name"], "interruptionQueue": facts["interruption-queue"]}
    (node,) = [o["spec"] for o in render(CLUSTERS / env / "nodes") if o["kind"] == "EC2NodeClass"]
    (tag,) = platform(plans, env, "aws_ec2_tag")
    assert node["role"] == facts["node-role"]
    for terms in (node["subnetSelectorTerms"], node["securityGroupSelectorTerms"]):
        assert terms == [{"tags": {tag["key"]: tag["value"]}}]
    assert set(node["tags"]) == TAGS
    assert node["tags"]["Environment"] == env


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_every_claim_of_a_pod_is_bound_to_a_volume_of_a_driver_that_is_installed(env):
    claimed = set()
    for thing in render(ROOT / f"deploy/policy/{env}"):
        if thing["kind"] == "SeldonDeployment":
            pod = thing["spec"]["predictors"][0]["componentSpecs"][0]["spec"]
            claimed |= {
                v["persistentVolumeClaim"]["claimName"]
                for v in pod["volumes"]
                if "persistentVolumeClaim" in v
            }
    made = render(CLUSTERS / env / "volumes")
    volumes = {o["metadata"]["name"]: o["spec"] for o in made if o["kind"] == "PersistentVolume"}
    claims = {o["metadata"]["name"]: o for o in made if o["kind"] == "PersistentVolumeClaim"}
    assert claimed == set(claims) == {"releases", "predictions"}
    assert {c["metadata"]["namespace"] for c in claims.values()} == {f"sekisho-{env}"}
    for claim in claims.values():
        assert volumes[claim["spec"]["volumeName"]]["accessModes"] == claim["spec"]["accessModes"]
    drivers = {"s3.csi.aws.com": "aws-mountpoint-s3-csi-driver", "efs.csi.aws.com": "aws-efs-csi-driver"}
    eks = (TERRAFORM / "modules/eks/main.tf").read_text()
    assert all(f'"{drivers[v["csi"]["driver"]]}"' in eks for v in volumes.values())


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_every_service_account_that_gets_a_role_exists(env):
    table = yaml.safe_load((TERRAFORM / "roles.yaml").read_text().replace("${environment}", env))
    wanted = {
        (role["pod"]["namespace"], role["pod"]["service_account"]) for role in table.values() if "pod" in role
    }
    made = set()
    for cluster in {env, "production"}:  # the night's account is in production's cluster alone
        for name, spec in applications(cluster).items():
            path, space = spec["source"].get("path", ""), spec["destination"]["namespace"]
            if path.startswith("deploy/"):
                made |= {
                    (o["metadata"].get("namespace", space), o["metadata"]["name"])
                    for o in render(ROOT / path)
                    if o["kind"] == "ServiceAccount"
                }
            elif name == "monitoring":
                values = spec["source"]["helm"]["valuesObject"]["prometheus"]
                made.add((space, values["serviceAccount"]["name"]))
    assert wanted <= made


def test_pods_with_a_role_reach_the_agent_that_gives_it_out():
    """169.254.170.23 is EKS Pod Identity's; the namespaces deny what they do not let out."""
    found = render(ROOT / "deploy/platform/namespaces")
    (out,) = [
        o["spec"]["egress"]
        for o in found
        if o["kind"] == "NetworkPolicy"
        and (o["metadata"]["namespace"], o["metadata"]["name"]) == ("training", "out")
    ]
    agent = {"to": [{"ipBlock": {"cidr": "169.254.170.23/32"}}], "ports": [{"port": 80, "protocol": "TCP"}]}
    assert agent in out


def units(instance: inputs.Instance, limit: str) -> int:
    return instance.gpus if limit == "nvidia.com/gpu" else instance.vcpu


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_the_usage_at_worst_is_all_that_the_node_pools_allow(env):
    """Each pool's limit, all month, on demand, at the dearest type it admits; and no type without a price."""
    usage, ec2 = inputs.usage()[env], inputs.prices().ec2
    found = pools(env)
    assert {row.pool for row in usage.nodes} == set(found)
    for name, spec in found.items():
        ((limit, most),) = spec["limits"].items()
        needs = {
            r["key"]: set(r["values"])
            for r in spec["template"]["spec"]["requirements"]
            if r["operator"] == "In"
        }
        types = needs.get("node.kubernetes.io/instance-type")
        families = needs.get("karpenter.k8s.aws/instance-family")
        assert types or families, name
        priced = {
            t: i for t, i in ec2.items() if t in (types or ()) or t.partition(".")[0] in (families or ())
        }
        assert types is None or set(priced) == types
        assert families is None or {t.partition(".")[0] for t in priced} == families
        dearest = max(i.hour / units(i, limit) for i in priced.values())
        rows = [row for row in usage.nodes if row.pool == name]
        worst = sum(row.hours.high * row.price_factor.high * ec2[row.instance].hour for row in rows)
        assert worst == pytest.approx(int(most) * HOURS * dearest), name
        expected = sum(row.hours.base * units(ec2[row.instance], limit) for row in rows)
        assert expected <= int(most) * HOURS, name
    nodes = sum(
        math.ceil(int(most) / (1 if "gpu" in limit else 2))
        for s in found.values()
        for limit, most in s["limits"].items()
    )
    assert usage.node_disk_gb.high >= nodes * 104  # the node class's disk and its image's
