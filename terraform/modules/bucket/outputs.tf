output "name" {
  description = "Name of the bucket."
  value       = aws_s3_bucket.this.bucket
  depends_on  = [aws_s3_bucket_versioning.this] # replication asks for it
}

output "arn" {
  description = "ARN of the bucket."
  value       = aws_s3_bucket.this.arn
}

output "key_arn" {
  description = "ARN of the key that its objects are encrypted with."
  value       = aws_kms_key.this.arn
}
