# Roles for GitHub's workflows, and the auditor's. GitHub's token is matched by its exact audience and subject: repository,
# context, and the workflow's file at the ref it was taken from. A name alone anybody could give to a file of their branch, and
# an environment alone says nothing of the branch. A pull request's ref holds its number, the one part that is not exact.
locals {
  issuer = "token.actions.githubusercontent.com"
  github = { for role, row in var.roles : role => row if length(row.github) > 0 }
  human  = { for role, row in var.roles : role => row if row.human }

  trust = merge(
    { for role, row in local.github : role => {
      Effect    = "Allow"
      Principal = { Federated = var.oidc_provider_arn }
      Action    = "sts:AssumeRoleWithWebIdentity"
      Condition = {
        StringEquals = { "${local.issuer}:aud" = "sts.amazonaws.com" }
        StringLike = { "${local.issuer}:sub" = [for subject in row.github : format("repo:%s:%s:job_workflow_ref:%s/.github/workflows/%s.yml@%s",
          var.repository, split(":workflow:", subject)[0], var.repository, split(":workflow:", subject)[1],
        startswith(subject, "pull_request:") ? "refs/pull/*/merge" : "refs/heads/main")] }
      }
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
  permissions_boundary = contains(["apply", "apply-data"], each.key) ? null : var.boundary_arn
  assume_role_policy   = jsonencode({ Version = "2012-10-17", Statement = [local.trust[each.key]] })
}

resource "aws_iam_role_policy" "this" {
  for_each = aws_iam_role.this
  name     = "table"
  role     = each.value.name
  policy   = var.documents[each.key]
}
