"""The matrix's S3 rows as real requests to a server that enforces IAM."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import boto3
import httpx
from botocore.config import Config
from botocore.exceptions import ClientError
from terraform.offline import ACCOUNT
from tests.terraform.iam import applies
from tests.terraform.roles import REGION, Rendered, Row, answer

# What the requests must carry beside bucket and key.
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "s3:GetObject": ("get_object", {}),
    "s3:PutObject": ("put_object", {"Body": b"x"}),
    "s3:DeleteObject": ("delete_object", {}),
    "s3:ListBucket": ("list_objects_v2", {}),
}


def client(endpoint: str, service: str, **credentials: str) -> Any:
    keys = credentials or {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    config = Config(
        s3={"addressing_style": "path"}, retries={"max_attempts": 1}, proxies={}, parameter_validation=True
    )
    return boto3.client(service, endpoint_url=endpoint, region_name=REGION, config=config, **keys)


def askable(row: Row, found: Rendered) -> bool:
    """Whether the server can judge a row: moto 5.2 ignores conditions and boundaries."""
    if row.action not in CALLS or row.bucket is None or (row.key is None) != (row.action == "s3:ListBucket"):
        return False
    if row.given or row.role not in found.roles or row.bucket.endswith("-copy"):  # of another region
        return False
    own = found.roles[row.role].statements
    if any(
        ("NotResource" in s or "NotAction" in s) and applies(s, row.action, "", row.context, conditions=False)
        for s in own
    ):
        return False  # moto takes even a denial of NotResource for a permission
    plain = {name: [s for s in policy if not s.get("Condition")] for name, policy in found.policies.items()}
    blind = answer(replace(found, policies=plain), row, conditions=False)
    return blind.allowed == row.allowed


def ask(endpoint: str, found: Rendered, rows: list[Row]) -> list[str]:
    """Send every row's request as its role; the rows that were not answered as they say."""
    s3, sts = client(endpoint, "s3"), client(endpoint, "sts")
    for bucket in sorted({row.bucket for row in rows if row.bucket}):
        # moto takes a denial's condition as met: "nothing without TLS" would deny everything
        if any(
            s["Sid"] == "NobodyShortensOrErases"
            for s in found.policies[bucket.removeprefix(f"{found.name}-")]
        ):
            # without the lock's rule for new objects: who may erase is to be answered by IAM alone
            s3.put_object_lock_configuration(
                Bucket=bucket, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled"}
            )
        plain = [s for s in found.policies[bucket.removeprefix(f"{found.name}-")] if not s.get("Condition")]
        if plain:
            s3.put_bucket_policy(
                Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": plain})
            )
        else:
            s3.delete_bucket_policy(Bucket=bucket)
    for bucket, key in sorted({(row.bucket, row.key) for row in rows if row.bucket and row.key}):
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    as_role = {}
    for name in sorted({row.role for row in rows}):
        answer = sts.assume_role(RoleArn=f"arn:aws:iam::{ACCOUNT}:role/{name}", RoleSessionName="matrix")[
            "Credentials"
        ]
        as_role[name] = client(
            endpoint,
            "s3",
            aws_access_key_id=answer["AccessKeyId"],
            aws_secret_access_key=answer["SecretAccessKey"],
            aws_session_token=answer["SessionToken"],
        )
    httpx.post(f"{endpoint}/moto-api/reset-auth", content=b"0", trust_env=False).raise_for_status()
    try:
        return [row.text for row in rows if allowed(as_role[row.role], row) != row.allowed]
    finally:
        httpx.post(f"{endpoint}/moto-api/reset-auth", content=b"inf", trust_env=False).raise_for_status()


def allowed(s3: Any, row: Row) -> bool:
    name, extra = CALLS[row.action]
    try:
        getattr(s3, name)(Bucket=row.bucket, **({"Key": row.key} if row.key else {}), **extra)
    except ClientError as error:
        if error.response["Error"]["Code"] in ("AccessDenied", "403"):  # by the role, by the bucket's policy
            return False
        raise
    return True
