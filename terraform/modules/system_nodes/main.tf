# A few on-demand nodes that are always there; every other node is Karpenter's, from the NodePools that Argo CD keeps.
resource "aws_iam_role" "node" {
  name                 = "${var.name}-node"
  permissions_boundary = var.boundary_arn
  assume_role_policy = jsonencode({ Version = "2012-10-17", Statement = [
  { Effect = "Allow", Principal = { Service = "ec2.amazonaws.com" }, Action = "sts:AssumeRole" }] })
}

resource "aws_iam_role_policy_attachment" "node" {
  for_each   = toset(["AmazonEKSWorkerNodePolicy", "AmazonEKS_CNI_Policy", "AmazonEC2ContainerRegistryPullOnly"])
  role       = aws_iam_role.node.name
  policy_arn = "arn:aws:iam::aws:policy/${each.key}"
}

resource "aws_launch_template" "system" {
  name                   = "${var.name}-system"
  update_default_version = true
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1 # a pod cannot take the node's role
  }
  block_device_mappings {
    device_name = "/dev/xvda"
    ebs {
      volume_type = "gp3"
      volume_size = 50
      encrypted   = true
    }
  }
  dynamic "tag_specifications" { # the group's own tags do not reach what it launches
    for_each = toset(["instance", "volume", "network-interface"])
    content {
      resource_type = tag_specifications.key
      tags          = data.aws_default_tags.this.tags
    }
  }
}

data "aws_default_tags" "this" {}

resource "aws_eks_node_group" "system" {
  cluster_name    = var.cluster_name
  node_group_name = "system"
  node_role_arn   = aws_iam_role.node.arn
  subnet_ids      = var.subnet_ids
  ami_type        = "AL2023_x86_64_STANDARD"
  instance_types  = [var.nodes.instance_type]
  capacity_type   = "ON_DEMAND"
  labels          = { "sekisho.dev/pool" = "system" }

  launch_template {
    id      = aws_launch_template.system.id
    version = aws_launch_template.system.latest_version
  }
  scaling_config {
    min_size     = var.nodes.count
    desired_size = var.nodes.count
    max_size     = var.nodes.count + 1
  }
  update_config {
    max_unavailable = 1
  }
  taint {
    key    = "CriticalAddonsOnly"
    value  = "true"
    effect = "NO_SCHEDULE"
  }
  # EKS itself lets the group's role in, Karpenter's nodes with it: an access entry of ours would be its second
  depends_on = [aws_iam_role_policy_attachment.node]
}

resource "aws_ebs_encryption_by_default" "this" {
  enabled = true # Karpenter's nodes too
}
