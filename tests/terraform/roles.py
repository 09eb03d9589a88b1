"""Roles and the policies of resources as a plan renders them, and the rows of ``matrix.yaml`` as requests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from moto.iam.aws_managed_policies import aws_managed_policies_data
from terraform.offline import ACCOUNT, PEOPLE
from tests.terraform.iam import EVERYTHING, Context, Decision, Resource, Role, Statement, assumable, decide
from tests.terraform.tool import resources

MATRIX = Path(__file__).parent / "matrix.yaml"
REGION = "ap-northeast-1"
NAMES = {"staging": "sekisho-staging", "production": "sekisho"}
CLASSES = ("dvc", "releases", "predictions", "audit", "audit-copy", "logs", "state")
OTHER_ACCOUNT = "999999999999"
ISSUER = "token.actions.githubusercontent.com"
REPOSITORY = "sekisho/sekisho"
# The policies of AWS that a role may have attached: none touches an object. Any other is refused. Their
# documents are
# those that moto ships, AWS's own.
ATTACHABLE = {
    "AmazonEKSClusterPolicy", "AmazonEKSWorkerNodePolicy", "AmazonEKS_CNI_Policy",
    "AmazonEC2ContainerRegistryPullOnly",
}  # fmt: skip
# Other ways to give access, none of which is judged here, so none may be used.
UNREAD = {
    "aws_iam_user", "aws_iam_group", "aws_iam_policy_attachment", "aws_iam_role_policies_exclusive",
    "aws_kms_grant", "aws_kms_key_policy", "aws_s3_access_point", "aws_s3_bucket_acl",
}  # fmt: skip
# Principals that the matrix asks for and no plan makes: two that may do everything in the account, one of
# another account.
HYPOTHETICAL = {
    "everything": Role(f"arn:aws:iam::{ACCOUNT}:role/everything", [EVERYTHING], None, []),
    "administrators": Role(PEOPLE["administrators"][0], [EVERYTHING], None, []),
    "stranger": Role(f"arn:aws:iam::{OTHER_ACCOUNT}:role/stranger", [EVERYTHING], None, []),
}
# Of aws/ebs, which AWS makes and keeps (EBS User Guide, "How Amazon EBS encryption works").
EBS_KEY: list[Statement] = [
    {"Sid": "AllowThroughEbs", "Effect": "Allow", "Principal": {"AWS": "*"}, "Resource": "*",
     "Action": ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:CreateGrant",
     "kms:DescribeKey"],
     "Condition": {"StringEquals": {"kms:ViaService": f"ec2.{REGION}.amazonaws.com", "kms:CallerAccount":
     ACCOUNT}}},
]  # fmt: skip


@dataclass(frozen=True)
class Rendered:
    """What a plan says of access: roles by name, and policies by what carries them.

    ``policies`` has a bucket class (``releases``), ``key:<class>``, ``queue:<name>`` and ``topic:<name>``,
    without the
    environment's prefix.
    """

    name: str
    roles: dict[str, Role]
    policies: dict[str, list[Statement]]


@dataclass(frozen=True)
class Row:
    """One row of the matrix, spelled out. ``given``: asked as if the role's own policies granted
    everything.
    """

    role: str
    action: str
    resource: str
    carrier: str | None  # of a policy: a key of Rendered.policies
    bucket: str | None
    key: str | None
    allowed: bool
    given: bool
    context: Context
    text: str


def of_environment(plans: dict[str, Any], environment: str) -> list[dict[str, Any]]:
    return [
        plans[name]
        for name in (f"bootstrap/{environment}", f"envs/{environment}/data", f"envs/{environment}/platform")
    ]


def statements(document: str) -> list[Statement]:
    found = json.loads(document)["Statement"]
    return found if isinstance(found, list) else [found]


def attached(arn: str) -> list[Statement]:
    """The statements of a policy of AWS. ValueError for one that is not in ``ATTACHABLE``."""
    name = arn.removeprefix("arn:aws:iam::aws:policy/")
    if name not in ATTACHABLE:
        raise ValueError(
            f"{arn} is attached: say in ATTACHABLE why it may be, or write the role's policy out"
        )
    found = json.loads(aws_managed_policies_data)[name]["Document"]["Statement"]
    return found if isinstance(found, list) else [found]


def rendered(plans: list[dict[str, Any]]) -> Rendered:
    """Read the plans of one environment. KeyError where a policy is unknown until an apply: none may be."""
    found = [r for plan in plans for r in resources(plan["planned_values"]["root_module"])]
    kinds: dict[str, list[dict[str, Any]]] = {}
    for resource in found:
        kinds.setdefault(resource["type"], []).append(resource["values"])
    (boundary,) = kinds["aws_iam_policy"]
    name = boundary["name"].removesuffix("-boundary")
    boundaries = {f"arn:aws:iam::{ACCOUNT}:policy/{boundary['name']}": statements(boundary["policy"])}
    own: dict[str, list[Statement]] = {v["name"]: [] for v in kinds["aws_iam_role"]}
    for v in kinds["aws_iam_role_policy"]:
        own[v["role"]] += statements(v["policy"])
    for v in kinds["aws_iam_role_policy_attachment"]:
        own[v["role"]] += attached(v["policy_arn"])
    unread = UNREAD & set(kinds)
    if unread or any(v.get("inline_policy") or v.get("managed_policy_arns") for v in kinds["aws_iam_role"]):
        raise ValueError(f"policies are given in a way that is not judged here: {sorted(unread)}")
    roles = {
        v["name"]: Role(
            arn=f"arn:aws:iam::{ACCOUNT}:role/{v['name']}",
            statements=own[v["name"]],
            boundary=boundaries[v["permissions_boundary"]] if v.get("permissions_boundary") else None,
            trust=statements(v["assume_role_policy"]),
        )
        for v in kinds["aws_iam_role"]
    }
    policies = {
        v["bucket"].removeprefix(f"{name}-"): statements(v["policy"]) for v in kinds["aws_s3_bucket_policy"]
    }
    aliases = {
        r["address"].rpartition(".aws_kms")[0]: r["values"]["name"]
        for r in found
        if r["type"] == "aws_kms_alias"
    }
    for r in found:
        values = r["values"]
        if r["type"] == "aws_kms_key":
            alias = aliases.get(r["address"].rpartition(".aws_kms")[0], f"alias/{name}-{r['name']}")
            policies[f"key:{alias.removeprefix(f'alias/{name}-')}"] = statements(values["policy"])
        elif r["type"] == "aws_sqs_queue_policy":
            policies[f"queue:{r['name']}"] = statements(values["policy"])
        elif r["type"] == "aws_sns_topic_policy":
            policies[f"topic:{r['index']}"] = statements(values["policy"])
    return Rendered(name, roles, policies | {"key:ebs": EBS_KEY})


def rows(environment: str) -> list[Row]:
    """The matrix's requests."""
    return expanded(environment, yaml.safe_load(MATRIX.read_text())["requests"])


def expanded(environment: str, entries: list[dict[str, Any]]) -> list[Row]:
    """Every entry, one row for each of its roles, actions and resources."""
    return [
        request(NAMES[environment], role, action, resource, row)
        for row in entries
        for role in listed(row["role"])
        for action in listed(row["action"])
        for resource in listed(row["resource"])
    ]


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def request(name: str, role: str, action: str, short: str, row: dict[str, Any]) -> Row:
    """``class``, ``class/key``, ``key:class``, ``queue:`` and ``topic:`` stand for what carries a policy;
    else an ARN.
    """
    head, slash, key = short.partition("/")
    service = role.endswith(".amazonaws.com")
    full = role if service or role in HYPOTHETICAL else f"{name}-{role}"
    context: dict[str, str | list[str]] = {"aws:SecureTransport": "true", "s3:ResourceAccount": ACCOUNT}
    if service:
        context |= {"aws:PrincipalIsAWSService": "true", "aws:SourceAccount": ACCOUNT}
    else:
        arn = HYPOTHETICAL[role].arn if role in HYPOTHETICAL else f"arn:aws:iam::{ACCOUNT}:role/{full}"
        context |= {
            "aws:PrincipalIsAWSService": "false",
            "aws:PrincipalArn": arn,
            "kms:ViaService": f"s3.{REGION}.amazonaws.com",
        }
    bucket, carrier, arn = None, None, short
    if head in CLASSES:
        bucket, carrier, arn = f"{name}-{head}", head, f"arn:aws:s3:::{name}-{head}{slash}{key}"
    elif head.startswith(("key:", "queue:", "topic:")):
        kind, _, which = head.partition(":")
        carrier = head
        service_of = {"key": "kms", "queue": "sqs", "topic": "sns"}[kind]
        arn = f"arn:aws:{service_of}:{REGION}:{ACCOUNT}:" + (
            f"key/{which}" if kind == "key" else f"{name}-{which}"
        )
        if kind == "key":
            context["kms:ResourceAliases"] = [f"alias/{name}-{which}"]
            if which != "ebs":
                context["aws:ResourceTag/Stack"] = stack_of(which)
    else:
        arn = short.format(name=name, account=ACCOUNT, region=REGION)
    given = {"everything": True, None: False}[row.get("given")]
    names = {"name": name, "account": ACCOUNT, "region": REGION}
    extra = {
        k.format(**names): v.format(**names) if isinstance(v, str) else v
        for k, v in row.get("with", {}).items()
    }
    return Row(
        role=full,
        action=action,
        resource=arn,
        carrier=carrier,
        bucket=bucket,
        key=key or None,
        allowed={"allow": True, "deny": False}[row["is"]],
        given=given,
        context={k: v for k, v in (context | extra).items() if v is not None},
        text=f"{role} {row['is']} {action} {short} {row.get('with', '')}"
        + (" given everything" if given else ""),
    )


def stack_of(key: str) -> str:
    """The tag Stack of a key's class, as the roots' default_tags set it."""
    return {"state": "bootstrap", "eks": "platform", "topics": "platform", "files": "platform"}.get(
        key, "data"
    )


def answer(found: Rendered, row: Row, conditions: bool = True) -> Decision:
    """What the rendered policies say of a row. KeyError for a role that nobody makes."""
    services = {row.role: Role(row.role, [], None, [])} if row.role.endswith(".amazonaws.com") else {}
    role = (found.roles | HYPOTHETICAL | services)[row.role]  # KeyError: the row names a role that is no more
    if row.given:
        role = Role(role.arn, [*role.statements, EVERYTHING], role.boundary, role.trust)
    policy = found.policies[row.carrier] if row.carrier else ()
    key = (row.carrier or "").startswith("key:")
    return decide(
        role,
        row.action,
        row.resource,
        row.context,
        Resource(ACCOUNT, tuple(policy), must_allow=key),
        conditions,
    )


@dataclass(frozen=True)
class Becoming:
    """A principal that asks for a role by its trust."""

    role: str
    principal: str
    action: str
    context: Context
    allowed: bool


def subject(short: str, repository: str, ref: str | None) -> str:
    """GitHub's `sub` of a job, with the claims that the repository's subject is customised to."""
    context, _, file = short.partition(":workflow:")
    ref = ref or ("refs/pull/7/merge" if context == "pull_request" else "refs/heads/main")
    return f"repo:{repository}:{context}:job_workflow_ref:{repository}/.github/workflows/{file}.yml@{ref}"


def becoming(environment: str, found: Rendered) -> Iterator[Becoming]:
    """The rows of ``trust``, one for each role and principal."""
    name = NAMES[environment]
    table = yaml.safe_load(
        (MATRIX.parents[2] / "terraform/roles.yaml").read_text().replace("${environment}", environment)
    )
    for row in yaml.safe_load(MATRIX.read_text())["trust"]:
        allowed = {"allow": True, "deny": False}[row["is"]]
        named = (
            sorted(found.roles)
            if row["role"] == "every"
            else [f"{name}-{role}" for role in listed(row["role"])]
        )
        for role in named:
            if "sub" in row:
                short = row["sub"].format(environment=environment)
                short = table[role.removeprefix(f"{name}-")]["github"][0] if short == "own" else short
                sub = subject(short, row.get("repository", REPOSITORY), row.get("ref"))
                claims: Context = {f"{ISSUER}:aud": row.get("aud", "sts.amazonaws.com"), f"{ISSUER}:sub": sub}
                provider = f"arn:aws:iam::{ACCOUNT}:oidc-provider/{ISSUER}"
                yield Becoming(role, provider, "sts:AssumeRoleWithWebIdentity", claims, allowed)
                continue
            context: dict[str, str | list[str]] = {"aws:SourceAccount": ACCOUNT}
            if "as" in row:
                namespace, _, account = row["as"].format(environment=environment).partition("/")
                context |= {
                    "aws:SourceArn": f"arn:aws:eks:{REGION}:{ACCOUNT}:cluster/{name}",
                    "aws:RequestTag/kubernetes-namespace": namespace,
                    "aws:RequestTag/kubernetes-service-account": account,
                }
            for principal in listed(row.get("service") or row["principal"]):
                yield Becoming(role, principal, "sts:AssumeRole", context | row.get("with", {}), allowed)


def assumed(found: Rendered, asked: Becoming) -> bool:
    return assumable(found.roles[asked.role], asked.principal, asked.action, asked.context)
