locals {
  locked = contains(["audit", "releases"], var.profile)
  arn    = "arn:aws:s3:::${var.name}"
}

resource "aws_s3_bucket" "this" {
  bucket              = var.name
  object_lock_enabled = local.locked
  tags                = { DataClass = var.profile }
  lifecycle { prevent_destroy = true }
}

resource "aws_s3_bucket_versioning" "this" {
  bucket = aws_s3_bucket.this.bucket
  versioning_configuration { status = "Enabled" }
  lifecycle { prevent_destroy = true }
}

module "ageing" {
  source  = "../ageing"
  bucket  = aws_s3_bucket_versioning.this.bucket # transitions of versions need them
  profile = var.profile
}

resource "aws_s3_bucket_public_access_block" "this" {
  bucket                  = aws_s3_bucket.this.bucket
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "this" {
  bucket = aws_s3_bucket.this.bucket
  rule { object_ownership = "BucketOwnerEnforced" }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "this" {
  bucket = aws_s3_bucket.this.bucket
  rule {
    bucket_key_enabled = true # one call of KMS for many objects
    apply_server_side_encryption_by_default {
      sse_algorithm     = "aws:kms"
      kms_master_key_id = aws_kms_key.this.arn
    }
  }
}

resource "aws_s3_bucket_object_lock_configuration" "this" {
  count  = local.locked ? 1 : 0
  bucket = aws_s3_bucket.this.bucket
  rule {
    default_retention {
      mode = "COMPLIANCE" # not even the account's root user can shorten it
      days = var.retention_days
    }
  }
  depends_on = [aws_s3_bucket_versioning.this]
  lifecycle { prevent_destroy = true }
}

resource "aws_s3_bucket_inventory" "this" {
  count                    = var.inventory_bucket == null ? 0 : 1
  bucket                   = aws_s3_bucket.this.bucket
  name                     = "weekly"
  included_object_versions = "All"
  optional_fields          = ["Size", "StorageClass", "EncryptionStatus", "ObjectLockMode", "ReplicationStatus"]
  schedule { frequency = "Weekly" }
  destination {
    bucket {
      format     = "Parquet"
      bucket_arn = "arn:aws:s3:::${var.inventory_bucket}"
      account_id = var.account_id
      prefix     = "inventory"
    }
  }
}
