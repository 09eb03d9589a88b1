# What is each stack's alone.
locals {
  not_the_state = { "ForAllValues:StringNotEquals" = { "kms:ResourceAliases" = "alias/${var.name}-state" } }

  apply = concat(local.own_stack.platform, [
    { Sid = "Build", Effect = "Allow", Resource = ["*"], # creating has no resource yet; the account is the limit
    Action = ["ec2:*", "eks:*", "logs:*", "cloudwatch:*", "sns:*", "sqs:*", "events:*", "firehose:*", "aps:*", "budgets:*", "ce:*", "elasticfilesystem:*", "ssm:DescribeParameters"] },
    { Sid = "Facts", Effect = "Allow", Resource = local.facts, Action = ["ssm:*Parameter*", "ssm:*Tags*"] },
    { Sid    = "Roles", Effect = "Allow", Resource = local.made, # made only inside the boundary
      Action = ["iam:CreateRole", "iam:PutRolePolicy", "iam:AttachRolePolicy", "iam:PutRolePermissionsBoundary"],
    Condition = { StringEquals = { "iam:PermissionsBoundary" = "arn:aws:iam::${var.account_id}:policy/${var.name}-boundary" } } },
    { Sid = "RolesKept", Effect = "Allow", Resource = local.made,
      Action = ["iam:Get*", "iam:List*", "iam:DeleteRole", "iam:DeleteRolePolicy", "iam:DetachRolePolicy", "iam:TagRole", "iam:UntagRole",
    "iam:UpdateAssumeRolePolicy", "iam:UpdateRole*"] },
    { Sid = "RolesGiven", Effect = "Allow", Resource = concat(local.made, ["${local.role}-pod-*"]), Action = ["iam:PassRole", "iam:GetRole"],
    Condition = { StringEqualsIfExists = { "iam:PassedToService" = [for service in ["eks", "pods.eks", "ec2", "firehose", "logs"] : "${service}.amazonaws.com"] } } },
    { Sid = "ServicesOwnRoles", Effect = "Allow", Resource = ["${local.linked}/*"], Action = ["iam:CreateServiceLinkedRole", "iam:GetRole"],
    Condition = { StringEqualsIfExists = { "iam:AWSServiceName" = [for service in ["eks", "eks-nodegroup", "spot"] : "${service}.amazonaws.com"] } } },

    { Sid = "NoUse", Effect = "Deny", Resource = [local.any_key], Action = ["kms:Decrypt", "kms:GenerateDataKey*", "kms:ReEncrypt*"],
    Condition = merge(local.not_the_state, { StringNotEquals = { "aws:ResourceTag/Stack" = "platform" } }) },
    { Sid = "OnlyItsState", Effect = "Deny", Action = ["s3:*"], NotResource = ["${local.bucket}-state", local.state.platform, "${local.state.platform}.tflock"] },
    { Sid = "NotItsOwnGuards", Effect = "Deny", Action = ["iam:*"], NotResource = concat(local.made, ["${local.role}-pod-*", "${local.linked}/*"]) },
    { Sid = "NotWhoReachesData", Effect = "Deny", NotAction = ["iam:Get*", "iam:List*", "iam:PassRole"], Resource = ["${local.role}-pod-*"] },
    { Sid = "NoBoundaryRemoved", Effect = "Deny", Resource = ["*"], Action = ["iam:DeleteRolePermissionsBoundary"] },
    { Sid = "NoStep", Effect = "Deny", Resource = ["*"], Action = ["secretsmanager:*", "sts:AssumeRole"] },
  ])

  apply_data = concat(local.own_stack.data, [
    { Sid = "Buckets", Effect = "Allow", Resource = [for class in ["dvc", "releases", "predictions", "audit", "audit-copy", "logs"] : "${local.bucket}-${class}"],
    Action = ["s3:CreateBucket", "s3:Get*Configuration", "s3:GetBucket*", "s3:ListBucket", "s3:PutBucket*", "s3:Put*Configuration"] },
    { Sid = "Copies", Effect = "Allow", Resource = ["${local.role}-audit-replication"], Action = ["iam:PassRole"],
    Condition = { StringEquals = { "iam:PassedToService" = "s3.amazonaws.com" } } },
    { Sid = "NoUse", Effect = "Deny", Resource = [local.any_key], Action = ["kms:Decrypt", "kms:GenerateDataKey*", "kms:ReEncrypt*"],
    Condition = local.not_the_state },
    { Sid = "NoObjects", Effect = "Deny", NotResource = [local.state.data, "${local.state.data}.tflock"],
    Action = ["s3:GetObject*", "s3:PutObject*", "s3:DeleteObject*", "s3:RestoreObject", "s3:ReplicateObject"] },
    { Sid = "NothingElse", Effect = "Deny", NotAction = ["iam:PassRole", "kms:*", "s3:*", "sts:GetCallerIdentity"], Resource = ["*"] },
    { Sid = "NoStateBucket", Effect = "Deny", Action = ["s3:PutBucket*", "s3:DeleteBucket*", "s3:Put*Configuration"], Resource = ["${local.bucket}-state"] },
  ])
}
