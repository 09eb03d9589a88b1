# With what S3 copies one bucket into another: it reads and writes locked data, so bootstrap makes it.
locals {
  source  = "arn:aws:s3:::${var.source_name}"
  replica = "arn:aws:s3:::${var.replica_name}"
  keys    = "arn:aws:kms:*:${var.account_id}:key/*" # narrowed to one key by its alias
}

resource "aws_iam_role" "this" {
  name                 = "${var.source_name}-replication"
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
      Condition = { "ForAnyValue:StringEquals" = { "kms:ResourceAliases" = "alias/${var.source_name}" } } },
      { Sid = "Encrypt", Effect = "Allow", Action = ["kms:Encrypt", "kms:GenerateDataKey"], Resource = [local.keys],
      Condition = { "ForAnyValue:StringEquals" = { "kms:ResourceAliases" = "alias/${var.replica_name}" } } },
    ]
  })
}
