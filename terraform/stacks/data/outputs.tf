output "buckets" {
  description = "Names of the buckets by class."
  value       = merge({ for class, bucket in module.bucket : class => bucket.name }, { logs = module.logs.name, audit_copy = module.audit_copy.name })
}
