# Karpenter's own policy, as its project documents it for chart 1.8: what it launches it must tag for this cluster, and
# what it changes or removes must carry that tag.
locals {
  ec2      = "arn:aws:ec2:${var.region}"
  profiles = "arn:aws:iam::${var.account_id}:instance-profile/*"
  cluster  = "kubernetes.io/cluster/${var.cluster_name}"
  made     = [for kind in ["fleet", "instance", "volume", "network-interface", "launch-template", "spot-instances-request"] : "${local.ec2}:*:${kind}/*"]

  owned = { # the resource is this cluster's, of a NodePool
    StringEquals = { "aws:ResourceTag/${local.cluster}" = "owned" }
    StringLike   = { "aws:ResourceTag/karpenter.sh/nodepool" = "*" }
  }
  named = { # the request makes it this cluster's
    StringEquals = { "aws:RequestTag/${local.cluster}" = "owned", "aws:RequestTag/eks:eks-cluster-name" = var.cluster_name }
    StringLike   = { "aws:RequestTag/karpenter.sh/nodepool" = "*" }
  }
  owned_profile = {
    StringEquals = { "aws:ResourceTag/${local.cluster}" = "owned", "aws:ResourceTag/topology.kubernetes.io/region" = var.region }
    StringLike   = { "aws:ResourceTag/karpenter.k8s.aws/ec2nodeclass" = "*" }
  }
  named_profile = {
    StringEquals = { "aws:RequestTag/${local.cluster}" = "owned", "aws:RequestTag/eks:eks-cluster-name" = var.cluster_name,
    "aws:RequestTag/topology.kubernetes.io/region" = var.region }
    StringLike = { "aws:RequestTag/karpenter.k8s.aws/ec2nodeclass" = "*" }
  }

  controller = [
    { Sid = "Look", Effect = "Allow", Resource = "*", # these actions know no narrower resource
      Action = ["ec2:DescribeCapacityReservations", "ec2:DescribeImages", "ec2:DescribeInstances", "ec2:DescribeInstanceTypeOfferings",
        "ec2:DescribeInstanceTypes", "ec2:DescribeLaunchTemplates", "ec2:DescribeSecurityGroups", "ec2:DescribeSpotPriceHistory",
      "ec2:DescribeSubnets", "pricing:GetProducts"],
    Condition = { StringEquals = { "aws:RequestedRegion" = [var.region, "us-east-1"] } } }, # prices are served there
    { Sid = "Images", Effect = "Allow", Action = ["ssm:GetParameter"], Resource = "arn:aws:ssm:${var.region}::parameter/aws/service/*" },
    { Sid = "LaunchFrom", Effect = "Allow", Action = ["ec2:RunInstances", "ec2:CreateFleet"],
    Resource = ["${local.ec2}::image/*", "${local.ec2}::snapshot/*", "${local.ec2}:*:security-group/*", "${local.ec2}:*:subnet/*"] },
    { Sid = "LaunchTemplate", Effect = "Allow", Action = ["ec2:RunInstances", "ec2:CreateFleet"],
    Resource = "${local.ec2}:*:launch-template/*", Condition = local.owned },
    { Sid = "Launch", Effect = "Allow", Action = ["ec2:RunInstances", "ec2:CreateFleet", "ec2:CreateLaunchTemplate"],
    Resource = local.made, Condition = local.named },
    { Sid = "TagAtLaunch", Effect = "Allow", Action = ["ec2:CreateTags"], Resource = local.made,
      Condition = merge(local.named, { StringEquals = merge(local.named.StringEquals, {
    "ec2:CreateAction" = ["RunInstances", "CreateFleet", "CreateLaunchTemplate"] }) }) },
    { Sid = "TagRunning", Effect = "Allow", Action = ["ec2:CreateTags"], Resource = "${local.ec2}:*:instance/*",
      Condition = merge(local.owned, {
        StringEqualsIfExists        = { "aws:RequestTag/eks:eks-cluster-name" = var.cluster_name }
        "ForAllValues:StringEquals" = { "aws:TagKeys" = ["eks:eks-cluster-name", "karpenter.sh/nodeclaim", "Name"] }
    }) },
    { Sid = "Remove", Effect = "Allow", Action = ["ec2:TerminateInstances", "ec2:DeleteLaunchTemplate"],
    Resource = ["${local.ec2}:*:instance/*", "${local.ec2}:*:launch-template/*"], Condition = local.owned },
    { Sid = "Interruptions", Effect = "Allow", Action = ["sqs:DeleteMessage", "sqs:GetQueueUrl", "sqs:ReceiveMessage"],
    Resource = local.queue_arn },
    { Sid = "PassNodeRole", Effect = "Allow", Action = ["iam:PassRole"], Resource = var.node_role_arn,
    Condition = { StringEquals = { "iam:PassedToService" = "ec2.amazonaws.com" } } },
    { Sid = "ProfilesMade", Effect = "Allow", Action = ["iam:CreateInstanceProfile"], Resource = local.profiles, Condition = local.named_profile },
    { Sid = "ProfilesTagged", Effect = "Allow", Action = ["iam:TagInstanceProfile"], Resource = local.profiles,
      Condition = { StringEquals = merge(local.owned_profile.StringEquals, local.named_profile.StringEquals),
    StringLike = merge(local.owned_profile.StringLike, local.named_profile.StringLike) } },
    { Sid = "ProfilesKept", Effect = "Allow", Resource = local.profiles, Condition = local.owned_profile,
    Action = ["iam:AddRoleToInstanceProfile", "iam:RemoveRoleFromInstanceProfile", "iam:DeleteInstanceProfile"] },
    { Sid = "ProfilesRead", Effect = "Allow", Action = ["iam:GetInstanceProfile"], Resource = local.profiles },
    { Sid = "ProfilesListed", Effect = "Allow", Action = ["iam:ListInstanceProfiles"], Resource = "*" }, # knows no narrower resource
    # the first spot instance of an account makes this role, and fails without
    { Sid      = "SpotRole", Effect = "Allow", Action = ["iam:CreateServiceLinkedRole"],
      Resource = "arn:aws:iam::${var.account_id}:role/aws-service-role/spot.amazonaws.com/AWSServiceRoleForEC2Spot",
    Condition = { StringEquals = { "iam:AWSServiceName" = "spot.amazonaws.com" } } },
    { Sid = "Cluster", Effect = "Allow", Action = ["eks:DescribeCluster"], Resource = var.cluster_arn },
  ]
}
