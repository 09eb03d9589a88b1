# Applied once per account by a person, before anything else: where states lie, whom GitHub may become, and the boundary
# that no role made later can leave. README.md has the commands.
locals {
  region = "ap-northeast-1"
  name   = var.environment == "production" ? "sekisho" : "sekisho-${var.environment}"
  roles  = yamldecode(templatefile("${path.module}/../roles.yaml", { environment = var.environment }))
  # by name, so that a plan shows every trust in full
  boundary_arn = "arn:aws:iam::${var.account_id}:policy/${local.name}-boundary"
}

provider "aws" {
  region              = local.region
  allowed_account_ids = [var.account_id]
  default_tags {
    tags = {
      Project     = "sekisho"
      Environment = var.environment
      Stack       = "bootstrap"
      CostCenter  = "drl-trading"
      ManagedBy   = "terraform"
    }
  }
}

module "state" {
  source         = "../modules/bucket"
  name           = "${local.name}-state"
  profile        = "state"
  account_id     = var.account_id
  apply_role_arn = var.administrator_arn # not the apply role: it must not weaken what it writes to
}

resource "aws_iam_openid_connect_provider" "github" {
  url            = "https://token.actions.githubusercontent.com"
  client_id_list = ["sts.amazonaws.com"]
}

module "policies" {
  source     = "../modules/policies"
  name       = local.name
  account_id = var.account_id
  region     = local.region
  roles      = local.roles
}

module "github_roles" {
  source            = "../modules/github_roles"
  name              = local.name
  repository        = var.repository
  roles             = module.policies.roles
  documents         = module.policies.documents
  oidc_provider_arn = "arn:aws:iam::${var.account_id}:oidc-provider/token.actions.githubusercontent.com"
  boundary_arn      = local.boundary_arn
  auditor_arn       = var.auditor_arn
  depends_on        = [aws_iam_openid_connect_provider.github, aws_iam_policy.boundary]
}
