# Metrics go to a managed Prometheus; alarms here are only for what Prometheus cannot see, or needs to live itself.
locals {
  copy   = { SourceBucket = var.copied.source, DestinationBucket = var.copied.replica, RuleId = var.copied.rule }
  topics = { page = var.subscribers.page, notice = var.subscribers.notice }
  alarms = merge(
    { for zone, id in var.nat_gateways : "nat-ports-${zone}" => {
      text  = "NAT in ${zone} runs out of ports: connections are dropped"
      space = "AWS/NATGateway", metric = "ErrorPortAllocation", by = { NatGatewayId = id }, statistic = "Sum", above = 0, topic = "page"
    } },
    {
      interruptions-unread = {
        text  = "Nobody reads spot interruptions: is Karpenter down?"
        space = "AWS/SQS", metric = "ApproximateAgeOfOldestMessage", by = { QueueName = var.queue }, statistic = "Maximum", above = 120, topic = "page"
      }
      audit-not-copied = {
        text  = "Part of the audit trail was not copied to the other region"
        space = "AWS/S3", metric = "OperationsFailedReplication", by = local.copy, statistic = "Sum", above = 0, topic = "page"
      }
      audit-copy-late = {
        text  = "The audit trail reaches the other region late"
        space = "AWS/S3", metric = "ReplicationLatency", by = local.copy, statistic = "Maximum", above = 3600, topic = "notice"
      }
      logs-late = {
        text  = "Logs reach cold storage late"
        space = "AWS/Firehose", metric = "DeliveryToS3.DataFreshness", by = { DeliveryStreamName = "${var.name}-logs" }, statistic = "Maximum", above = 3600, topic = "notice"
      }
    },
  )
}

resource "aws_prometheus_workspace" "this" {
  alias = var.name
}

resource "aws_kms_key" "topics" {
  description             = "Messages of ${var.name}'s topics"
  enable_key_rotation     = true
  deletion_window_in_days = 30
  policy = jsonencode({ # in a key policy, resource "*" is this key
    Version = "2012-10-17"
    Statement = [
      { Sid = "IdentityPoliciesDecide", Effect = "Allow", Principal = { AWS = "arn:aws:iam::${var.account_id}:root" }, Action = "kms:*", Resource = "*" },
      { Sid       = "Senders", Effect = "Allow", Resource = "*", Action = ["kms:GenerateDataKey*", "kms:Decrypt"],
        Principal = { Service = ["cloudwatch.amazonaws.com", "budgets.amazonaws.com", "costalerts.amazonaws.com"] },
      Condition = { StringEquals = { "aws:SourceAccount" = var.account_id } } },
    ]
  })
}

resource "aws_sns_topic" "this" {
  for_each          = local.topics
  name              = "${var.name}-${each.key}"
  kms_master_key_id = aws_kms_key.topics.key_id
}

resource "aws_sns_topic_policy" "this" {
  for_each = aws_sns_topic.this
  arn      = each.value.arn
  policy = jsonencode({ Version = "2012-10-17", Statement = [
    { Sid       = "Senders", Effect = "Allow", Action = "sns:Publish", Resource = "arn:aws:sns:${var.region}:${var.account_id}:${var.name}-${each.key}",
      Principal = { Service = ["cloudwatch.amazonaws.com", "budgets.amazonaws.com", "costalerts.amazonaws.com"] },
    Condition = { StringEquals = { "aws:SourceAccount" = var.account_id } } },
  ] })
}

resource "aws_sns_topic_subscription" "email" {
  for_each  = { for pair in flatten([for topic, addresses in local.topics : [for address in addresses : { topic = topic, address = address }]]) : "${pair.topic} ${pair.address}" => pair }
  topic_arn = aws_sns_topic.this[each.value.topic].arn
  protocol  = "email"
  endpoint  = each.value.address
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each            = local.alarms
  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value.text
  namespace           = each.value.space
  metric_name         = each.value.metric
  dimensions          = each.value.by
  statistic           = each.value.statistic
  comparison_operator = "GreaterThanThreshold"
  threshold           = each.value.above
  period              = 300
  evaluation_periods  = 2
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.this[each.value.topic].arn]
  ok_actions          = [aws_sns_topic.this[each.value.topic].arn]
}
