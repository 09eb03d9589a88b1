# CloudWatch keeps ninety days to search in; everything also goes to S3, where it ages into Deep Archive.
locals {
  log_export = "${var.name}-log-export"
  stream     = "${var.name}-logs"
}

resource "aws_iam_role" "export" {
  name                 = local.log_export
  permissions_boundary = var.boundary_arn
  assume_role_policy = jsonencode({ Version = "2012-10-17", Statement = [
    { Effect = "Allow", Principal = { Service = ["firehose.amazonaws.com", "logs.amazonaws.com"] }, Action = "sts:AssumeRole",
  Condition = { StringEquals = { "aws:SourceAccount" = var.account_id } } }] })
}

resource "aws_iam_role_policy" "export" {
  name = "export"
  role = aws_iam_role.export.name
  policy = jsonencode({ Version = "2012-10-17", Statement = [
    { Sid = "Write", Effect = "Allow", Action = ["s3:PutObject", "s3:AbortMultipartUpload"], Resource = "arn:aws:s3:::${var.log_bucket}/cloudwatch/*" },
    { Sid = "Key", Effect = "Allow", Action = ["kms:GenerateDataKey", "kms:Decrypt"], Resource = "arn:aws:kms:${var.region}:${var.account_id}:key/*",
    Condition = { "ForAnyValue:StringEquals" = { "kms:ResourceAliases" = "alias/${var.log_bucket}" } } },
    { Sid = "Stream", Effect = "Allow", Action = ["firehose:PutRecord", "firehose:PutRecordBatch"],
    Resource = "arn:aws:firehose:${var.region}:${var.account_id}:deliverystream/${local.stream}" },
  ] })
}

resource "aws_kinesis_firehose_delivery_stream" "logs" {
  name        = local.stream
  destination = "extended_s3"
  server_side_encryption {
    enabled = true
  }
  extended_s3_configuration {
    role_arn            = aws_iam_role.export.arn
    bucket_arn          = "arn:aws:s3:::${var.log_bucket}"
    prefix              = "cloudwatch/"
    error_output_prefix = "cloudwatch/failed/"
    buffering_size      = 128            # MiB: few, large objects; small ones cost more in cold classes than they weigh
    buffering_interval  = 900            # seconds
    compression_format  = "UNCOMPRESSED" # CloudWatch sends gzip already
  }
}

resource "aws_cloudwatch_log_subscription_filter" "this" {
  for_each        = toset(var.log_groups)
  name            = "cold"
  log_group_name  = each.key
  filter_pattern  = ""
  destination_arn = aws_kinesis_firehose_delivery_stream.logs.arn
  role_arn        = aws_iam_role.export.arn
  depends_on      = [aws_iam_role_policy.export]
}
