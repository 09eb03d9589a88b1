# Written out as JSON, so that a plan shows every policy in full and the IAM matrix can judge it before an apply.
locals {
  protection = [ # what guards the bucket itself
    "s3:PutBucketPolicy", "s3:DeleteBucketPolicy", "s3:PutBucketVersioning", "s3:PutBucketObjectLockConfiguration",
    "s3:PutBucketPublicAccessBlock", "s3:PutEncryptionConfiguration", "s3:PutLifecycleConfiguration",
    "s3:PutReplicationConfiguration", "s3:PutBucketOwnershipControls", "s3:DeleteBucket",
  ]
  # what could shorten a retention or hide an object
  erasure     = ["s3:PutObjectRetention", "s3:PutObjectLegalHold", "s3:BypassGovernanceRetention", "s3:DeleteObject", "s3:DeleteObjectVersion"]
  everyone    = { AWS = "*" }
  own_account = { StringEquals = { "aws:SourceAccount" = var.account_id } }

  denials = [
    { Sid = "OnlyTls", Effect = "Deny", Principal = local.everyone, Action = ["s3:*"], Resource = [local.arn, "${local.arn}/*"],
    Condition = { Bool = { "aws:SecureTransport" = "false" } } },
    { Sid = "OnlyApplyChangesProtection", Effect = "Deny", Principal = local.everyone, Action = local.protection, Resource = [local.arn],
    Condition = { ArnNotEquals = { "aws:PrincipalArn" = var.apply_role_arn } } },
  ]
  # A request that names no encryption gets the bucket's own key. Any that names one is refused: AES256, another key, or a key
  # that only the sender holds would lock away for years what nobody here can read.
  own_key = [for number, header in ["s3:x-amz-server-side-encryption", "s3:x-amz-server-side-encryption-aws-kms-key-id", "s3:x-amz-server-side-encryption-customer-algorithm"] :
    { Sid = "OnlyOwnKey${number}", Effect = "Deny", Principal = local.everyone, Action = ["s3:PutObject"], Resource = ["${local.arn}/*"],
  Condition = { Null = { (header) = "false" } } }]
  worm = [
    { Sid = "NobodyShortensOrErases", Effect = "Deny", Principal = local.everyone, Action = local.erasure, Resource = ["${local.arn}/*"] },
  ]
  services = [for service, prefix in var.services :
    { Sid = "Write${index(keys(var.services), service)}", Effect = "Allow", Principal = { Service = service },
  Action = ["s3:PutObject", "s3:GetBucketAcl"], Resource = [local.arn, "${local.arn}/${prefix}/*"], Condition = local.own_account }]
}

resource "aws_s3_bucket_policy" "this" {
  bucket = aws_s3_bucket.this.bucket
  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = concat(local.denials, local.own_key, local.locked ? local.worm : [], local.services)
  })
  depends_on = [aws_s3_bucket_public_access_block.this]
  lifecycle { prevent_destroy = true }
}

resource "aws_kms_key" "this" {
  description             = "Objects of ${var.name}"
  enable_key_rotation     = true
  deletion_window_in_days = 30
  tags                    = { DataClass = var.profile }
  lifecycle { prevent_destroy = true } # who deletes the key erases what is locked
  policy = jsonencode({                # in a key policy, resource "*" is this key
    Version = "2012-10-17"
    Statement = concat(
      [{ Sid = "IdentityPoliciesDecide", Effect = "Allow", Principal = { AWS = "arn:aws:iam::${var.account_id}:root" }, Action = "kms:*", Resource = "*" }],
      [for service in keys(var.services) : { Sid = "Use${index(keys(var.services), service)}", Effect = "Allow", Principal = { Service = service },
      Action = ["kms:GenerateDataKey", "kms:Decrypt"], Resource = "*", Condition = local.own_account }],
    )
  })
}

resource "aws_kms_alias" "this" {
  name          = "alias/${var.name}"
  target_key_id = aws_kms_key.this.key_id
}
