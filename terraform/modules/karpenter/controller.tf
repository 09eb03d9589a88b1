# Karpenter's own policy, cut to this cluster by tags: what it launches it must tag, what it removes must carry the tag.
locals {
  ec2   = "arn:aws:ec2:${var.region}"
  owned = { "aws:ResourceTag/kubernetes.io/cluster/${var.cluster_name}" = "owned" }
  named = { "aws:RequestTag/kubernetes.io/cluster/${var.cluster_name}" = "owned" }
  made  = [for kind in ["fleet", "instance", "volume", "network-interface", "launch-template", "spot-instances-request"] : "${local.ec2}:*:${kind}/*"]

  controller = [
    { Sid = "Look", Effect = "Allow", Resource = "*", # these actions know no narrower resource
      Action = ["ec2:DescribeAvailabilityZones", "ec2:DescribeImages", "ec2:DescribeInstances", "ec2:DescribeInstanceTypeOfferings",
        "ec2:DescribeInstanceTypes", "ec2:DescribeLaunchTemplates", "ec2:DescribeSecurityGroups", "ec2:DescribeSpotPriceHistory",
      "ec2:DescribeSubnets", "pricing:GetProducts"],
    Condition = { StringEquals = { "aws:RequestedRegion" = [var.region, "us-east-1"] } } }, # prices are served there
    { Sid = "Images", Effect = "Allow", Action = ["ssm:GetParameter"], Resource = "arn:aws:ssm:${var.region}::parameter/aws/service/*" },
    { Sid = "LaunchFrom", Effect = "Allow", Action = ["ec2:RunInstances", "ec2:CreateFleet"],
    Resource = ["${local.ec2}::image/*", "${local.ec2}::snapshot/*", "${local.ec2}:*:security-group/*", "${local.ec2}:*:subnet/*"] },
    { Sid = "LaunchTemplate", Effect = "Allow", Action = ["ec2:RunInstances", "ec2:CreateFleet"],
    Resource = "${local.ec2}:*:launch-template/*", Condition = { StringEquals = local.owned } },
    { Sid = "Launch", Effect = "Allow", Action = ["ec2:RunInstances", "ec2:CreateFleet", "ec2:CreateLaunchTemplate"],
    Resource = local.made, Condition = { StringEquals = local.named } },
    { Sid = "TagAtLaunch", Effect = "Allow", Action = ["ec2:CreateTags"], Resource = local.made,
      Condition = { StringEquals = merge(local.named, {
    "ec2:CreateAction" = ["RunInstances", "CreateFleet", "CreateLaunchTemplate"] }) } },
    { Sid = "Remove", Effect = "Allow", Action = ["ec2:TerminateInstances", "ec2:DeleteLaunchTemplate"],
    Resource = ["${local.ec2}:*:instance/*", "${local.ec2}:*:launch-template/*"], Condition = { StringEquals = local.owned } },
    { Sid = "Interruptions", Effect = "Allow", Action = ["sqs:DeleteMessage", "sqs:GetQueueUrl", "sqs:ReceiveMessage"],
    Resource = local.queue_arn },
    { Sid = "PassNodeRole", Effect = "Allow", Action = ["iam:PassRole"], Resource = var.node_role_arn,
    Condition = { StringEquals = { "iam:PassedToService" = "ec2.amazonaws.com" } } },
    { Sid = "Profiles", Effect = "Allow", Resource = "arn:aws:iam::${var.account_id}:instance-profile/*",
      Action = ["iam:AddRoleToInstanceProfile", "iam:CreateInstanceProfile", "iam:DeleteInstanceProfile",
    "iam:RemoveRoleFromInstanceProfile", "iam:GetInstanceProfile"] },
    { Sid = "Cluster", Effect = "Allow", Action = ["eks:DescribeCluster"], Resource = var.cluster_arn },
  ]
}
