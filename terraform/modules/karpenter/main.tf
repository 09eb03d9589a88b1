# What Karpenter needs of AWS: a role that can only touch this cluster's nodes, and a queue that hears of spot
# interruptions two minutes ahead. Which nodes there are (spot GPUs in one zone a job, on-demand serving over three,
# runners from zero) is said by NodePools in git.
locals {
  queue_arn = "arn:aws:sqs:${var.region}:${var.account_id}:${var.name}-interruptions"

  events = {
    spot-interruption = { source = ["aws.ec2"], detail-type = ["EC2 Spot Instance Interruption Warning"] }
    rebalance         = { source = ["aws.ec2"], detail-type = ["EC2 Instance Rebalance Recommendation"] }
    state-change      = { source = ["aws.ec2"], detail-type = ["EC2 Instance State-change Notification"] }
    health            = { source = ["aws.health"], detail-type = ["AWS Health Event"] }
  }
}

resource "aws_iam_role" "controller" {
  name                 = "${var.name}-karpenter"
  permissions_boundary = var.boundary_arn
  assume_role_policy = jsonencode({ Version = "2012-10-17", Statement = [
    { Effect = "Allow", Principal = { Service = "pods.eks.amazonaws.com" }, Action = ["sts:AssumeRole", "sts:TagSession"],
      Condition = { StringEquals = {
        "aws:SourceAccount"                         = var.account_id
        "aws:RequestTag/kubernetes-namespace"       = "karpenter"
        "aws:RequestTag/kubernetes-service-account" = "karpenter"
  }, ArnEquals = { "aws:SourceArn" = var.cluster_arn } } }] })
}

resource "aws_iam_role_policy" "controller" {
  name   = "controller"
  role   = aws_iam_role.controller.name
  policy = jsonencode({ Version = "2012-10-17", Statement = local.controller })
}

resource "aws_eks_pod_identity_association" "controller" {
  cluster_name    = var.cluster_name
  namespace       = "karpenter"
  service_account = "karpenter"
  role_arn        = aws_iam_role.controller.arn
}

resource "aws_sqs_queue" "interruptions" {
  name                      = "${var.name}-interruptions"
  message_retention_seconds = 300 # a warning is of no use after the node is gone
  sqs_managed_sse_enabled   = true
}

resource "aws_sqs_queue_policy" "interruptions" {
  queue_url = aws_sqs_queue.interruptions.url
  policy = jsonencode({ Version = "2012-10-17", Statement = [
    { Sid      = "Events", Effect = "Allow", Principal = { Service = "events.amazonaws.com" }, Action = "sqs:SendMessage",
      Resource = local.queue_arn,
    Condition = { StringEquals = { "aws:SourceAccount" = var.account_id } } },
    { Sid = "OnlyTls", Effect = "Deny", Principal = "*", Action = "sqs:*", Resource = local.queue_arn,
    Condition = { Bool = { "aws:SecureTransport" = "false" } } },
  ] })
}

resource "aws_cloudwatch_event_rule" "this" {
  for_each      = local.events
  name          = "${var.name}-${each.key}"
  event_pattern = jsonencode(each.value)
}

resource "aws_cloudwatch_event_target" "this" {
  for_each = local.events
  rule     = aws_cloudwatch_event_rule.this[each.key].name
  arn      = aws_sqs_queue.interruptions.arn
}
