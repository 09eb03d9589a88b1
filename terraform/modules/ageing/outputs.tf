output "instant" {
  description = "Whether every object is read at once, whatever its age."
  value       = !contains(keys(local.transitions[var.profile]), "DEEP_ARCHIVE")
}
