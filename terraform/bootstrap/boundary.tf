# The most that any role of the platform can do, whatever its own policy says. It grants nothing by itself.
locals {
  role = "arn:aws:iam::${var.account_id}:role/${local.name}"
}

resource "aws_iam_policy" "boundary" {
  name        = "${local.name}-boundary"
  description = "Upper limit of every role but those that apply"
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      { Sid = "Services", Effect = "Allow", Resource = "*",
        Action = ["s3:*", "kms:*", "logs:*", "cloudwatch:*", "aps:*", "firehose:*", "elasticfilesystem:Describe*", "sqs:*", "ec2:*", "ecr:*", "eks:*",
          "eks-auth:*", "elasticloadbalancing:*", "autoscaling:Describe*", "ssm:GetParameter*", "ssm:DescribeParameters",
          "ssm:ListTagsForResource", "pricing:GetProducts", "servicequotas:*", "iam:List*", "iam:Get*", "iam:*InstanceProfile*",
      "iam:CreateServiceLinkedRole", "sns:*", "events:*", "budgets:View*", "budgets:List*", "ce:Get*", "ce:List*"] },
      { Sid = "PassNode", Effect = "Allow", Resource = "${local.role}-node", Action = "iam:PassRole" },
      { Sid = "NeverWeaker", Effect = "Deny", Resource = "*",
        Action = ["s3:PutObjectRetention", "s3:PutObjectLegalHold", "s3:BypassGovernanceRetention", "s3:DeleteObject",
          "s3:DeleteObjectVersion", "s3:PutBucket*", "s3:DeleteBucket*", "s3:PutEncryptionConfiguration",
          "s3:PutLifecycleConfiguration", "s3:PutReplicationConfiguration", "kms:ScheduleKeyDeletion", "kms:DisableKey",
          "kms:PutKeyPolicy", "kms:UpdateAlias", "kms:CreateAlias", "kms:TagResource", "kms:UntagResource",
      "logs:DeleteLogGroup", "logs:PutRetentionPolicy", "ec2:DeleteFlowLogs"] },
      # a grant that a service makes for its own resource is how EC2 opens an encrypted disk; any other gives a key away
      { Sid = "NoGrant", Effect = "Deny", Resource = "*", Action = "kms:CreateGrant",
      Condition = { BoolIfExists = { "kms:GrantIsForAWSResource" = "false" } } },
      { Sid = "OnlyTls", Effect = "Deny", Resource = "*", Action = "s3:*", Condition = { Bool = { "aws:SecureTransport" = "false" } } },
      { Sid = "OnlyOwnAccount", Effect = "Deny", Resource = "*", Action = ["s3:GetObject", "s3:PutObject"],
        Condition = { StringNotEquals = { "s3:ResourceAccount" = var.account_id },
      Bool = { "aws:PrincipalIsAWSService" = "false" } } },
      # what apply may make and write policies for reaches no bucket, but for the logs' way out
      { Sid = "NoDataForWhatApplyMakes", Effect = "Deny", Action = "s3:*", NotResource = "arn:aws:s3:::${local.name}-logs/cloudwatch/*",
      Condition = { ArnEquals = { "aws:PrincipalArn" = [for role in ["eks", "node", "karpenter", "log-export"] : "${local.role}-${role}"] } } },
    ]
  })
}
