# Not a gap of moto: production must refuse to destroy a bucket, the test must be able to.
resource "aws_s3_bucket" "this" {
  lifecycle {
    prevent_destroy = false
  }
}
