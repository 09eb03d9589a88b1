locals {
  source  = "arn:aws:s3:::${var.source_bucket}"
  replica = "arn:aws:s3:::${var.replica_bucket}"
  keys    = "arn:aws:kms:*:${var.account_id}:key/*" # narrowed to one key by its alias
}

resource "aws_iam_role" "this" {
  name                 = "${var.source_bucket}-replication"
  permissions_boundary = var.boundary_arn
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{ Effect = "Allow", Principal = { Service = "s3.amazonaws.com" }, Action = "sts:AssumeRole",
    Condition = { StringEquals = { "aws:SourceAccount" = var.account_id } } }]
  })
}

resource "aws_iam_role_policy" "this" {
  name = "replication"
  role = aws_iam_role.this.name
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      { Sid = "Source", Effect = "Allow", Action = ["s3:GetReplicationConfiguration", "s3:ListBucket"], Resource = [local.source] },
      { Sid = "Versions", Effect = "Allow", Resource = ["${local.source}/*"],
        Action = ["s3:GetObjectVersionForReplication", "s3:GetObjectVersionAcl", "s3:GetObjectVersionTagging",
      "s3:GetObjectRetention", "s3:GetObjectLegalHold"] },
      # no ReplicateDelete: the copy keeps what is deleted at the source
      { Sid = "Replica", Effect = "Allow", Action = ["s3:ReplicateObject", "s3:ReplicateTags"], Resource = ["${local.replica}/*"] },
      { Sid = "Decrypt", Effect = "Allow", Action = ["kms:Decrypt"], Resource = [local.keys],
      Condition = { "ForAnyValue:StringEquals" = { "kms:ResourceAliases" = "alias/${var.source_bucket}" } } },
      { Sid = "Encrypt", Effect = "Allow", Action = ["kms:Encrypt", "kms:GenerateDataKey"], Resource = [local.keys],
      Condition = { "ForAnyValue:StringEquals" = { "kms:ResourceAliases" = "alias/${var.replica_bucket}" } } },
    ]
  })
}

resource "aws_s3_bucket_replication_configuration" "this" {
  bucket = var.source_bucket
  role   = aws_iam_role.this.arn

  rule {
    id       = "all"
    status   = "Enabled"
    priority = 0
    filter {}
    delete_marker_replication {
      status = "Disabled"
    }
    source_selection_criteria {
      sse_kms_encrypted_objects {
        status = "Enabled"
      }
    }
    destination {
      bucket        = local.replica
      storage_class = "GLACIER_IR"
      metrics {
        status = "Enabled" # modules/observability listens
      }
      encryption_configuration {
        replica_kms_key_id = var.replica_key_arn
      }
    }
  }
  lifecycle { prevent_destroy = true }
}
