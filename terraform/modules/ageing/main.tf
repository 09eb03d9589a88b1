# Days after which an object moves on, by profile. Who reads a class reads it at once, whatever its age: DVC uploads an
# object once and never again, and the drift check takes the whole log. So only what is restored by an auditor, or by
# nobody in years, goes to Deep Archive, which answers after hours and costs a tenth.
locals {
  transitions = {
    dvc         = { STANDARD_IA = 30, GLACIER_IR = 90 }
    releases    = { STANDARD_IA = 90, GLACIER_IR = 365 }
    predictions = { STANDARD_IA = 30, GLACIER_IR = 90 }
    audit       = { GLACIER_IR = 90, DEEP_ARCHIVE = 365 }
    logs        = { STANDARD_IA = 30, GLACIER_IR = 90, DEEP_ARCHIVE = 365 }
    state       = {}
  }
  expire_days            = { logs = 2557 }                                        # everything else is kept
  noncurrent_expire_days = { dvc = 90, predictions = 90, logs = 90, state = 365 } # locked profiles keep every version
}

resource "aws_s3_bucket_lifecycle_configuration" "this" {
  bucket = var.bucket

  rule {
    id     = "age"
    status = "Enabled"
    filter {}

    dynamic "transition" {
      for_each = local.transitions[var.profile]
      content {
        storage_class = transition.key
        days          = transition.value
      }
    }
    dynamic "expiration" {
      for_each = [for days in [lookup(local.expire_days, var.profile, 0)] : days if days > 0]
      content {
        days = expiration.value
      }
    }
    dynamic "noncurrent_version_expiration" {
      for_each = [for days in [lookup(local.noncurrent_expire_days, var.profile, 0)] : days if days > 0]
      content {
        noncurrent_days = noncurrent_version_expiration.value
      }
    }
    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }
  }
}
