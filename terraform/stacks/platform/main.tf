# Everything of an environment that can be rebuilt: the network, the cluster, its roles, alarms and budgets.
locals {
  boundary_arn = "arn:aws:iam::${var.account_id}:policy/${var.name}-boundary"
  logs         = "${var.name}-logs" # made by the stack data
  money        = yamldecode(file("${path.module}/../../budget.yaml"))
  roles        = yamldecode(templatefile("${path.module}/../../roles.yaml", { environment = var.environment }))
}

module "network" {
  source          = "../../modules/network"
  name            = var.name
  region          = var.region
  cidr            = var.network.cidr
  zones           = [for letter in ["a", "c", "d"] : "${var.region}${letter}"] # Tokyo has no b for new accounts
  nat_gateways    = var.network.nat_gateways
  flow_log_bucket = local.logs
}

module "eks" {
  source             = "../../modules/eks"
  name               = var.name
  account_id         = var.account_id
  region             = var.region
  kubernetes_version = var.kubernetes_version
  vpc_id             = module.network.vpc_id
  cidr               = var.network.cidr
  subnet_ids         = values(module.network.private_subnets)
  administrators     = var.people.administrators
  boundary_arn       = local.boundary_arn
}

module "system_nodes" {
  source       = "../../modules/system_nodes"
  name         = var.name
  cluster_name = module.eks.cluster.name
  subnet_ids   = values(module.network.private_subnets)
  nodes        = var.system_nodes
  boundary_arn = local.boundary_arn
}

module "volumes" {
  source     = "../../modules/volumes"
  name       = var.name
  account_id = var.account_id
  vpc_id     = module.network.vpc_id
  cidr       = var.network.cidr
  subnet_ids = module.network.private_subnets
}

module "karpenter" {
  source        = "../../modules/karpenter"
  name          = var.name
  account_id    = var.account_id
  region        = var.region
  cluster_name  = module.eks.cluster.name
  cluster_arn   = local.cluster_arn
  node_role_arn = local.node_role_arn
  boundary_arn  = local.boundary_arn
}

module "pod_identities" {
  source       = "../../modules/pod_identities"
  name         = var.name
  account_id   = var.account_id
  cluster_name = module.eks.cluster.name
  pods         = { for role, row in local.roles : role => row.pod if can(row.pod) }
}

module "observability" {
  source       = "../../modules/observability"
  name         = var.name
  account_id   = var.account_id
  region       = var.region
  log_groups   = [module.eks.log_group]
  log_bucket   = local.logs
  queue        = module.karpenter.queue
  nat_gateways = module.network.nat_gateways
  copied       = { source = "${var.name}-audit", replica = "${var.name}-audit-copy", rule = "all" } # of the stack data
  subscribers  = { page = var.people.page, notice = var.people.notice }
  boundary_arn = local.boundary_arn
}

module "budget" {
  source              = "../../modules/budget"
  name                = var.name
  monthly_jpy         = local.money.monthly_jpy[var.environment]
  storage_yearly_jpy  = local.money.storage_yearly_jpy[var.environment]
  jpy_per_usd         = local.money.jpy_per_usd
  topic_arn           = module.observability.topics["notice"]
  cost_tags           = var.billing.cost_tags ? ["Project", "Environment", "Stack", "DataClass", "CostCenter"] : []
  anomaly_monitor_arn = var.billing.anomaly_monitor_arn
}
