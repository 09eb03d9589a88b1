# Not a gap of moto: a bucket must not be destroyed, the test must be able to.
resource "aws_s3_bucket" "this" {
  lifecycle {
    prevent_destroy = false
  }
}

# Not a gap of moto: its versions must not be destroyed, the test must be able to.
resource "aws_s3_bucket_versioning" "this" {
  lifecycle {
    prevent_destroy = false
  }
}

# Not a gap of moto: its lock must not be destroyed, the test must be able to.
resource "aws_s3_bucket_object_lock_configuration" "this" {
  lifecycle {
    prevent_destroy = false
  }
}

# Not a gap of moto: its policy must not be destroyed, the test must be able to.
resource "aws_s3_bucket_policy" "this" {
  lifecycle {
    prevent_destroy = false
  }
}

# Not a gap of moto: its key must not be destroyed, the test must be able to.
resource "aws_kms_key" "this" {
  lifecycle {
    prevent_destroy = false
  }
}
