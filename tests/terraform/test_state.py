"""The state lies in its bucket, under its own key, and two runs at once are refused."""

from __future__ import annotations

import json

import pytest
from terraform.offline import Workspace
from tests.terraform import live
from tests.terraform.tool import lay_gaps, moto, needs_terraform

BACKEND = """terraform {{
  backend "s3" {{
    endpoints = {{ s3 = "{endpoint}" }}
    use_path_style              = true
    skip_credentials_validation = true
    skip_requesting_account_id  = true
    skip_region_validation      = true
    skip_metadata_api_check     = true
    bucket       = "sekisho-staging-state"
    key          = "data.tfstate"
    region       = "ap-northeast-1"
    encrypt      = true
    use_lockfile = true
  }}
}}
"""


@needs_terraform
@pytest.mark.applied
def test_a_second_run_is_refused_while_the_first_holds_the_lock(tmp_path):
    root = "envs/staging/data"
    with moto(tmp_path / "moto.log") as endpoint:
        s3 = live.client(endpoint, "s3")
        s3.create_bucket(
            Bucket="sekisho-staging-state", CreateBucketConfiguration={"LocationConstraint": "ap-northeast-1"}
        )
        workspace = Workspace(tmp_path, endpoint)
        workspace.env |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
        lay_gaps(workspace)
        workspace.init(root)
        override = workspace.folder(root) / "offline_override.tf"
        local = 'terraform {\n  backend "local" {}\n}\n'
        assert local in override.read_text()
        override.write_text(override.read_text().replace(local, BACKEND.format(endpoint=endpoint)))
        workspace.must(root, "init", "-reconfigure")

        target = "-target=module.data.module.logs.aws_s3_bucket.this"
        workspace.must(root, "apply", "-auto-approve", target)
        kept = json.loads(s3.get_object(Bucket="sekisho-staging-state", Key="data.tfstate")["Body"].read())
        assert [r["type"] for r in kept["resources"]] == ["aws_s3_bucket"]

        lock = {"ID": "1", "Operation": "OperationTypeApply", "Who": "another run", "Version": "1.11.4"}
        s3.put_object(
            Bucket="sekisho-staging-state", Key="data.tfstate.tflock", Body=json.dumps(lock).encode()
        )
        refused = workspace.run(root, "apply", "-auto-approve", target)
        assert refused.code == 1
        assert "Error acquiring the state lock" in refused.text
        assert "another run" in refused.text
