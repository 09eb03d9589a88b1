"""The roles and bucket policies as a plan renders them, and the rows of ``matrix.yaml`` as requests."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from terraform.offline import ACCOUNT
from tests.terraform.iam import Context, Role, Statement
from tests.terraform.tool import resources

MATRIX = Path(__file__).parent / "matrix.yaml"
REGION = "ap-northeast-1"
NAMES = {"staging": "sekisho-staging", "production": "sekisho"}
CLASSES = ("dvc", "releases", "predictions", "audit", "logs", "state")


@dataclass(frozen=True)
class Rendered:
    """What a plan says of access: roles and bucket policies by name."""

    roles: dict[str, Role]
    buckets: dict[str, list[Statement]]


@dataclass(frozen=True)
class Row:
    """One row of the matrix, spelled out."""

    number: int
    role: str
    action: str
    resource: str
    bucket: str | None
    key: str | None
    allowed: bool
    context: Context
    text: str


def statements(document: str) -> list[Statement]:
    found = json.loads(document)["Statement"]
    return found if isinstance(found, list) else [found]


def rendered(plans: list[dict[str, Any]]) -> Rendered:
    """Read the plans of one environment. KeyError where a policy is unknown until an apply: none may be."""
    found = [r for plan in plans for r in resources(plan["planned_values"]["root_module"])]
    kinds: dict[str, list[dict[str, Any]]] = {}
    for resource in found:
        kinds.setdefault(resource["type"], []).append(resource["values"])
    own = {v["role"]: statements(v["policy"]) for v in kinds["aws_iam_role_policy"]}
    boundaries = {
        f"arn:aws:iam::{ACCOUNT}:policy/{v['name']}": statements(v["policy"]) for v in kinds["aws_iam_policy"]
    }
    roles = {
        v["name"]: Role(
            arn=f"arn:aws:iam::{ACCOUNT}:role/{v['name']}",
            statements=own.get(v["name"], []),
            boundary=boundaries[v["permissions_boundary"]] if v.get("permissions_boundary") else None,
            trust=statements(v["assume_role_policy"]),
        )
        for v in kinds["aws_iam_role"]
    }
    buckets = {v["bucket"]: statements(v["policy"]) for v in kinds["aws_s3_bucket_policy"]}
    return Rendered(roles, buckets)


def rows(environment: str) -> list[Row]:
    """Every row, one for each of its actions and resources."""
    name = NAMES[environment]
    expanded = []
    for row in yaml.safe_load(MATRIX.read_text())["requests"]:
        for role in row["role"] if isinstance(row["role"], list) else [row["role"]]:
            for action in row["action"] if isinstance(row["action"], list) else [row["action"]]:
                for resource in row["resource"] if isinstance(row["resource"], list) else [row["resource"]]:
                    expanded.append(request(len(expanded), name, role, action, resource, row))
    return expanded


def request(number: int, name: str, role: str, action: str, short: str, row: dict[str, Any]) -> Row:
    """``class``, ``class/key`` and ``key:class`` stand for a bucket, an object and a class's KMS key."""
    head, slash, key = short.partition("/")
    bucket, arn = None, short
    context: dict[str, str | list[str]] = {
        "aws:SecureTransport": "true",
        "aws:PrincipalArn": f"arn:aws:iam::{ACCOUNT}:role/{name}-{role}",
        "aws:PrincipalIsAWSService": "false",
        "s3:ResourceAccount": ACCOUNT,
        "kms:ViaService": f"s3.{REGION}.amazonaws.com",
    }
    if head in CLASSES:
        bucket = f"{name}-{head}"
        arn = f"arn:aws:s3:::{bucket}{slash}{key}"
    elif head.startswith("key:"):
        arn = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/0000"
        context["kms:ResourceAliases"] = [f"alias/{name}-{head.removeprefix('key:')}"]
    else:
        arn = short.format(name=name, account=ACCOUNT, region=REGION)
    return Row(
        number=number,
        role=f"{name}-{role}",
        action=action,
        resource=arn,
        bucket=bucket,
        key=key or None,
        allowed={"allow": True, "deny": False}[row["is"]],
        context=context | row.get("with", {}),
        text=f"{role} {row['is']} {action} {short} {row.get('with', '')}".strip(),
    )
