# What Terraform itself may do. It builds everything and reads no object but its own states; what guards it (its own
# role, the boundary, the trust in GitHub) it cannot change: bootstrap/ is applied by a person.
locals {
  role     = "arn:aws:iam::${var.account_id}:role/${var.name}"
  policy   = "arn:aws:iam::${var.account_id}:policy/${var.name}"
  states   = [for stack in ["data", "platform"] : "arn:aws:s3:::${var.name}-state/${stack}.tfstate"]
  facts    = ["arn:aws:ssm:${var.region}:${var.account_id}:parameter/${var.name}/*"]
  keys_arn = ["arn:aws:kms:${var.region}:${var.account_id}:key/*"] # narrowed to one key by its alias

  # what a plan reads: the states, the settings of what is in them, and nothing that anybody stored
  describe = [
    { Sid = "Describe", Effect = "Allow", Resource = ["*"], # most of these actions know no narrower resource
      Action = ["ec2:Describe*", "eks:Describe*", "eks:List*", "logs:Describe*", "logs:List*", "cloudwatch:Describe*",
        "cloudwatch:List*", "kms:Describe*", "kms:List*", "kms:GetKeyPolicy", "kms:GetKeyRotationStatus", "iam:Get*",
        "iam:List*", "sns:Get*", "sns:List*", "sqs:Get*", "sqs:List*", "events:Describe*", "events:List*",
        "firehose:Describe*", "firehose:List*", "elasticfilesystem:Describe*", "aps:Describe*", "aps:List*", "budgets:View*", "budgets:List*",
    "ce:Get*", "ce:List*", "ssm:Describe*", "ssm:List*", "s3:Get*Configuration", "s3:GetBucket*", "s3:ListBucket"] },
    { Sid = "StatesRead", Effect = "Allow", Resource = local.states, Action = ["s3:GetObject"] },
    { Sid = "StateKeyRead", Effect = "Allow", Resource = local.keys_arn, Action = ["kms:Decrypt"],
    Condition = { "ForAnyValue:StringEquals" = { "kms:ResourceAliases" = "alias/${var.name}-state" } } },
    { Sid = "FactsRead", Effect = "Allow", Resource = local.facts, Action = ["ssm:GetParameter*"] },
    { Sid = "NoData", Effect = "Deny", NotResource = local.states, Action = ["s3:GetObject*"] },
    { Sid = "NoSecret", Effect = "Deny", NotResource = local.facts, Action = ["ssm:GetParameter*"] },
    { Sid = "NoStep", Effect = "Deny", Resource = ["*"], Action = ["secretsmanager:*", "s3:PutObject*", "s3:DeleteObject*", "sts:AssumeRole"] },
  ]

  apply = [
    { Sid = "Build", Effect = "Allow", Resource = ["*"], # creating has no resource yet; the account is the limit
      Action = ["ec2:*", "eks:*", "logs:*", "cloudwatch:*", "sns:*", "sqs:*", "events:*", "firehose:*", "elasticfilesystem:*", "aps:*", "budgets:*",
    "ce:*", "kms:Create*", "kms:Describe*", "kms:Get*", "kms:List*", "kms:Put*", "kms:Tag*", "kms:Update*", "kms:Enable*"] },
    { Sid = "Buckets", Effect = "Allow", Resource = ["arn:aws:s3:::${var.name}-*"], # buckets, not objects: no "/"
    Action = ["s3:CreateBucket", "s3:Get*Configuration", "s3:GetBucket*", "s3:ListBucket", "s3:PutBucket*", "s3:Put*Configuration"] },
    { Sid = "Facts", Effect = "Allow", Resource = local.facts,
    Action = ["ssm:*Parameter*", "ssm:*Tags*"] },
    { Sid = "States", Effect = "Allow", Resource = [for state in local.states : "${state}*"] # and their locks,
    Action = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"] },
    { Sid    = "StateKey", Effect = "Allow", Resource = ["arn:aws:kms:${var.region}:${var.account_id}:key/*"],
      Action = ["kms:Decrypt", "kms:GenerateDataKey"],
    Condition = { "ForAnyValue:StringEquals" = { "kms:ResourceAliases" = "alias/${var.name}-state" } } },
    { Sid    = "Roles", Effect = "Allow", Resource = ["${local.role}-*"], # made only inside the boundary
      Action = ["iam:CreateRole", "iam:PutRolePolicy", "iam:AttachRolePolicy", "iam:PutRolePermissionsBoundary"],
    Condition = { StringEquals = { "iam:PermissionsBoundary" = "${local.policy}-boundary" } } },
    { Sid = "RolesKept", Effect = "Allow", Resource = ["${local.role}-*"],
      Action = ["iam:Get*", "iam:List*", "iam:DeleteRole", "iam:DeleteRolePolicy", "iam:DetachRolePolicy", "iam:TagRole",
    "iam:UntagRole", "iam:UpdateAssumeRolePolicy", "iam:PassRole"] },
  ]

  guard = [
    { Sid = "NotItsOwnGuards", Effect = "Deny", Action = ["iam:*"], NotResource = ["${local.role}-pod-*", "${local.role}-eks*",
    "${local.role}-node", "${local.role}-karpenter", "${local.role}-log-export", "${local.role}-audit-replication"] },
    { Sid = "NoBoundaryRemoved", Effect = "Deny", Resource = ["*"], Action = ["iam:DeleteRolePermissionsBoundary"] },
    { Sid = "NoKeyLost", Effect = "Deny", Resource = ["*"], Action = ["kms:ScheduleKeyDeletion", "kms:DisableKey"] },
  ]
}
