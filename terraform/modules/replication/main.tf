locals {
  replica = "arn:aws:s3:::${var.replica_bucket}"
}

resource "aws_s3_bucket_replication_configuration" "this" {
  bucket = var.source_bucket
  role   = var.role_arn

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
