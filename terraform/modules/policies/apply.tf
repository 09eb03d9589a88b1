# What Terraform itself may do, in three roles. `plan` describes. `apply` builds the platform and touches no bucket but its
# state's. `apply-data` sets up buckets and keys, and uses neither: no object, no decryption. No role here writes a policy of
# a role that reaches data: that is bootstrap/, applied by a person.
locals {
  role     = "arn:aws:iam::${var.account_id}:role/${var.name}"
  linked   = "arn:aws:iam::${var.account_id}:role/aws-service-role"
  bucket   = "arn:aws:s3:::${var.name}"
  state    = { for stack in ["data", "platform"] : stack => "${local.bucket}-state/${stack}.tfstate" }
  facts    = ["arn:aws:ssm:${var.region}:${var.account_id}:parameter/${var.name}/*"]
  keys_arn = ["arn:aws:kms:${var.region}:${var.account_id}:key/*"] # narrowed to one key by its alias
  any_key  = "arn:aws:kms:*:${var.account_id}:key/*"               # the audit trail's copy lies in another region

  # the roles that apply makes; the boundary lets none of them reach data
  made        = [for role in ["eks", "node", "karpenter", "log-export"] : "${local.role}-${role}"]
  state_alias = { "ForAnyValue:StringEquals" = { "kms:ResourceAliases" = "alias/${var.name}-state" } }
  own_keys    = { for stack in ["data", "platform"] : stack => { StringEquals = { "aws:ResourceTag/Stack" = stack } } }
  own_aliases = {
    platform = [for key in ["eks", "files"] : "arn:aws:kms:*:${var.account_id}:alias/${var.name}-${key}"]
    data     = [for class in ["dvc", "releases", "predictions", "audit", "audit-copy", "logs"] : "arn:aws:kms:*:${var.account_id}:alias/${var.name}-${class}"]
  }

  # what a refresh reads: settings, and nothing that anybody stored. S3 knows no way to ask whether a bucket is there
  # (HeadBucket) without the right to list it: names of objects are seen.
  look = ["ec2:Describe*", "ec2:GetEbsEncryptionByDefault", "eks:Describe*", "eks:List*", "logs:Describe*", "logs:List*",
    "cloudwatch:Describe*", "cloudwatch:List*", "kms:Describe*", "kms:List*", "kms:GetKeyPolicy", "kms:GetKeyRotationStatus",
    "iam:GetRole", "iam:GetRolePolicy", "iam:ListRolePolicies", "iam:ListAttachedRolePolicies", "sns:Get*", "sns:List*", "sqs:Get*",
    "sqs:List*", "events:Describe*", "events:List*", "firehose:Describe*", "firehose:List*", "aps:Describe*", "aps:List*",
    "elasticfilesystem:Describe*", "elasticfilesystem:ListTagsForResource", "budgets:View*", "budgets:List*", "ce:Get*", "ce:List*", "ssm:Describe*", "ssm:ListTagsForResource",
  "s3:Get*Configuration", "s3:GetBucket*", "s3:ListBucket"]
  describe = [
    { Sid = "Describe", Effect = "Allow", Resource = ["*"], Action = local.look }, # most of these know no narrower resource
    { Sid = "StatesRead", Effect = "Allow", Resource = values(local.state), Action = ["s3:GetObject"] },
    { Sid = "StateKeyRead", Effect = "Allow", Resource = local.keys_arn, Action = ["kms:Decrypt"], Condition = local.state_alias },
    { Sid = "FactsRead", Effect = "Allow", Resource = local.facts, Action = ["ssm:GetParameter*"] },
    { Sid = "NoData", Effect = "Deny", NotResource = values(local.state), Action = ["s3:GetObject*"] },
    { Sid = "NoSecret", Effect = "Deny", NotResource = local.facts, Action = ["ssm:GetParameter*"] },
    { Sid = "NoUserData", Effect = "Deny", Resource = ["*"], Action = ["ec2:DescribeInstanceAttribute", "ec2:GetConsole*"] },
    { Sid = "NoWrite", Effect = "Deny", Resource = ["*"], Action = ["s3:PutObject*"] }, # the boundary knows neither secrets nor roles to take
  ]

  # its own state and lock, its own stack's keys by their tag, and the denials that hold whatever is granted above
  own_stack = { for stack, state in local.state : stack => [
    { Sid = "State", Effect = "Allow", Resource = [state, "${state}.tflock"], Action = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"] },
    { Sid = "StateList", Effect = "Allow", Resource = ["${local.bucket}-state"], Action = ["s3:ListBucket"] },
    { Sid = "StateKey", Effect = "Allow", Resource = local.keys_arn, Action = ["kms:Decrypt", "kms:GenerateDataKey"], Condition = local.state_alias },
    { Sid = "Settings", Effect = "Allow", Resource = ["*"], Action = ["kms:Describe*", "kms:List*", "kms:GetKeyPolicy", "kms:GetKeyRotationStatus"] },
    { Sid = "KeyMade", Effect = "Allow", Resource = ["*"], Action = ["kms:CreateKey"], Condition = { StringEquals = { "aws:RequestTag/Stack" = stack } } },
    { Sid = "KeyTagged", Effect = "Allow", Resource = [local.any_key], Action = ["kms:TagResource"], # a new key has no tag yet
    Condition = { StringEqualsIfExists = { "aws:RequestTag/Stack" = stack, "aws:ResourceTag/Stack" = stack } } },
    { Sid = "KeyKept", Effect = "Allow", Resource = [local.any_key], Condition = local.own_keys[stack],
      Action = ["kms:PutKeyPolicy", "kms:EnableKeyRotation", "kms:UpdateKeyDescription", "kms:CreateAlias", "kms:UpdateAlias",
    "kms:DeleteAlias", "kms:CreateGrant"] }, # EKS makes its grant for secrets with the caller's rights
    { Sid = "Alias", Effect = "Allow", Resource = local.own_aliases[stack], Action = ["kms:CreateAlias", "kms:UpdateAlias", "kms:DeleteAlias"] },
    { Sid = "NoKeyLost", Effect = "Deny", Resource = ["*"], Action = ["kms:ScheduleKeyDeletion", "kms:DisableKey"] },
    { Sid = "NoLockout", Effect = "Deny", Resource = ["*"], Action = ["kms:PutKeyPolicy", "kms:CreateKey"],
    Condition = { Bool = { "kms:BypassPolicyLockoutSafetyCheck" = "true" } } },
    { Sid    = "OnlyItsKeys", Effect = "Deny", Resource = [local.any_key],
      Action = ["kms:PutKeyPolicy", "kms:CreateGrant", "kms:CreateAlias", "kms:UpdateAlias", "kms:TagResource", "kms:UntagResource"],
    Condition = { StringNotEqualsIfExists = { "aws:ResourceTag/Stack" = stack } } },
  ] }
}
