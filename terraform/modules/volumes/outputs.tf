output "predictions" {
  description = "Handle of the volume for prediction logs, as the EFS driver reads it."
  value       = "${aws_efs_file_system.this.id}::${aws_efs_access_point.predictions.id}"
}
