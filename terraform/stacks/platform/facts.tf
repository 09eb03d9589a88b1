# What the things in git must know of the cluster, and nothing secret: deploy/clusters/<environment>/facts/facts.env is
# written from them (docs/en/terraform.md).
locals {
  # from names, so that a plan shows the policies that carry them
  cluster_arn   = "arn:aws:eks:${var.region}:${var.account_id}:cluster/${var.name}"
  node_role_arn = "arn:aws:iam::${var.account_id}:role/${var.name}-node"

  facts = {
    environment        = var.environment
    releases-bucket    = "${var.name}-releases" # made by the stack data
    cluster-name       = module.eks.cluster.name
    cluster-endpoint   = module.eks.cluster.endpoint
    cluster-ca         = module.eks.cluster.ca
    cluster-version    = module.eks.cluster.version
    node-role          = module.system_nodes.role
    interruption-queue = module.karpenter.queue
    remote-write       = "${module.observability.prometheus}api/v1/remote_write"
    predictions-volume = module.volumes.predictions
    topic-page         = module.observability.topics["page"]
    topic-notice       = module.observability.topics["notice"]
    private-subnets    = jsonencode(module.network.private_subnets)
  }
}

resource "aws_ssm_parameter" "fact" {
  for_each = local.facts
  name     = "/${var.name}/${each.key}"
  type     = "String"
  tier     = "Standard"
  value    = each.value
}
