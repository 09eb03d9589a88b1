# Every role that reaches data is made here, by a person: the pods' from the table, and the one that copies the audit trail.
module "pod_roles" {
  source       = "../modules/pod_roles"
  name         = local.name
  account_id   = var.account_id
  cluster_arn  = "arn:aws:eks:${local.region}:${var.account_id}:cluster/${local.name}"
  roles        = module.policies.roles
  documents    = module.policies.documents
  boundary_arn = local.boundary_arn
  depends_on   = [aws_iam_policy.boundary]
}

module "replication_role" {
  source       = "../modules/replication_role"
  source_name  = "${local.name}-audit"
  replica_name = "${local.name}-audit-copy"
  account_id   = var.account_id
  boundary_arn = local.boundary_arn
  depends_on   = [aws_iam_policy.boundary]
}
