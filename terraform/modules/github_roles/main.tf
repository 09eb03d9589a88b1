# Roles for GitHub's workflows, and the auditor's. GitHub's token is matched by its exact audience and subject.
locals {
  issuer = "token.actions.githubusercontent.com"
  github = { for role, row in var.roles : role => row if length(row.github) > 0 }
  human  = { for role, row in var.roles : role => row if row.human }

  trust = merge(
    { for role, row in local.github : role => {
      Effect    = "Allow"
      Principal = { Federated = var.oidc_provider_arn }
      Action    = "sts:AssumeRoleWithWebIdentity"
      Condition = { StringEquals = {
        "${local.issuer}:aud" = "sts.amazonaws.com"
        "${local.issuer}:sub" = [for context in row.github : "repo:${var.repository}:${context}"]
      } }
    } },
    { for role, row in local.human : role => {
      Effect    = "Allow"
      Principal = { AWS = var.auditor_arn }
      Action    = "sts:AssumeRole"
      Condition = {}
    } },
  )
}

resource "aws_iam_role" "this" {
  for_each             = merge(local.github, local.human)
  name                 = "${var.name}-${each.key}"
  description          = each.value.purpose
  max_session_duration = 21600 # the longest job of a workflow
  permissions_boundary = each.key == "apply" ? null : var.boundary_arn
  assume_role_policy   = jsonencode({ Version = "2012-10-17", Statement = [local.trust[each.key]] })
}

resource "aws_iam_role_policy" "this" {
  for_each = aws_iam_role.this
  name     = "table"
  role     = each.value.name
  policy   = var.documents[each.key]
}
