# What must outlive every cluster: the buckets of one environment and the copy of its audit trail in another region.
locals {
  apply_role_arn = "arn:aws:iam::${var.account_id}:role/${var.name}-apply-data"
  logs           = "${var.name}-logs"
}

module "logs" {
  source           = "../../modules/bucket"
  name             = local.logs
  profile          = "logs"
  account_id       = var.account_id
  inventory_bucket = local.logs
  apply_role_arn   = local.apply_role_arn
  services = {
    "delivery.logs.amazonaws.com" = "AWSLogs"
    "s3.amazonaws.com"            = "inventory"
  }
}

module "bucket" {
  source           = "../../modules/bucket"
  for_each         = toset(["dvc", "releases", "predictions", "audit"])
  name             = "${var.name}-${each.key}"
  profile          = each.key
  account_id       = var.account_id
  retention_days   = var.retention_days
  apply_role_arn   = local.apply_role_arn
  inventory_bucket = module.logs.name
}

# no inventory: one must lie in the same region, and in a bucket without a default lock; the source's says what is copied
module "audit_copy" {
  source         = "../../modules/bucket"
  providers      = { aws = aws.replica }
  name           = "${var.name}-audit-copy"
  profile        = "audit"
  account_id     = var.account_id
  retention_days = var.retention_days
  apply_role_arn = local.apply_role_arn
}

module "replication" {
  source          = "../../modules/replication"
  source_bucket   = module.bucket["audit"].name
  replica_bucket  = module.audit_copy.name
  replica_key_arn = module.audit_copy.key_arn
  role_arn        = "arn:aws:iam::${var.account_id}:role/${var.name}-audit-replication" # bootstrap's
}
