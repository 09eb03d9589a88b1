# Files that many pods write: the prediction logs, one folder a pod, renamed into place. S3 can be mounted to read
# (releases are), but knows neither a rename nor a lock.
resource "aws_kms_key" "this" {
  description             = "Shared files of ${var.name}"
  enable_key_rotation     = true
  deletion_window_in_days = 30
  policy = jsonencode({ # in a key policy, resource "*" is this key
    Version = "2012-10-17"
    Statement = [
      { Sid = "IdentityPoliciesDecide", Effect = "Allow", Principal = { AWS = "arn:aws:iam::${var.account_id}:root" }, Action = "kms:*", Resource = "*" },
    ]
  })
}

resource "aws_kms_alias" "this" {
  name          = "alias/${var.name}-files"
  target_key_id = aws_kms_key.this.key_id
}

# No policy of its own: who may mount it is said by the security group, and the driver mounts by TLS.
resource "aws_efs_file_system" "this" {
  encrypted       = true
  kms_key_id      = aws_kms_key.this.arn
  throughput_mode = "elastic"
  tags            = { Name = var.name }
  lifecycle_policy {
    transition_to_ia = "AFTER_30_DAYS"
  }
}

resource "aws_security_group" "this" {
  name        = "${var.name}-files"
  description = "NFS from the VPC"
  vpc_id      = var.vpc_id
}

resource "aws_vpc_security_group_ingress_rule" "this" {
  security_group_id = aws_security_group.this.id
  description       = "NFS from the VPC"
  cidr_ipv4         = var.cidr
  ip_protocol       = "tcp"
  from_port         = 2049
  to_port           = 2049
}

resource "aws_efs_mount_target" "this" {
  for_each        = var.subnet_ids
  file_system_id  = aws_efs_file_system.this.id
  subnet_id       = each.value
  security_groups = [aws_security_group.this.id]
}

resource "aws_efs_access_point" "predictions" {
  file_system_id = aws_efs_file_system.this.id
  posix_user { # of the policy server's pods
    uid = 10001
    gid = 10001
  }
  root_directory {
    path = "/predictions"
    creation_info {
      owner_uid   = 10001
      owner_gid   = 10001
      permissions = "0750"
    }
  }
}
