# The most that any role of the platform can do, whatever its own policy says. It grants nothing by itself.
resource "aws_iam_policy" "boundary" {
  name        = "${local.name}-boundary"
  description = "Upper limit of every role but apply"
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      { Sid = "Services", Effect = "Allow", Resource = "*",
        Action = ["s3:*", "kms:*", "logs:*", "cloudwatch:*", "aps:*", "firehose:*", "elasticfilesystem:Describe*", "sqs:*", "ec2:*", "ecr:*", "eks:*",
          "eks-auth:*", "elasticloadbalancing:*", "autoscaling:Describe*", "ssm:GetParameter*", "ssm:DescribeParameters",
          "pricing:GetProducts", "servicequotas:*", "iam:List*", "iam:Get*", "iam:*InstanceProfile*", "iam:PassRole",
      "iam:CreateServiceLinkedRole", "sns:*", "events:*"] },
      { Sid = "NeverWeaker", Effect = "Deny", Resource = "*",
        Action = ["s3:PutObjectRetention", "s3:PutObjectLegalHold", "s3:BypassGovernanceRetention", "s3:DeleteObjectVersion",
          "s3:PutBucket*", "s3:DeleteBucket*", "s3:PutEncryptionConfiguration", "s3:PutLifecycleConfiguration",
          "s3:PutReplicationConfiguration", "kms:ScheduleKeyDeletion", "kms:DisableKey", "kms:PutKeyPolicy", "kms:CreateGrant",
      "logs:DeleteLogGroup", "logs:PutRetentionPolicy", "ec2:DeleteFlowLogs", "secretsmanager:*"] },
      { Sid = "OnlyTls", Effect = "Deny", Resource = "*", Action = "s3:*", Condition = { Bool = { "aws:SecureTransport" = "false" } } },
      { Sid = "OnlyOwnAccount", Effect = "Deny", Resource = "*", Action = ["s3:GetObject", "s3:PutObject"],
        Condition = { StringNotEquals = { "s3:ResourceAccount" = var.account_id },
      Bool = { "aws:PrincipalIsAWSService" = "false" } } },
    ]
  })
}
