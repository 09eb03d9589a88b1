output "topics" {
  description = "ARN of each topic."
  value       = { for topic, made in aws_sns_topic.this : topic => made.arn }
}

output "prometheus" {
  description = "Where metrics are written to."
  value       = aws_prometheus_workspace.this.prometheus_endpoint
}
