# One table in, one policy document a role out. Written as JSON from names alone, so that a plan shows it in full.
locals {
  objects = {
    read    = ["s3:GetObject", "s3:GetObjectVersion"]
    write   = ["s3:PutObject", "s3:AbortMultipartUpload"] # nobody is given a delete
    restore = ["s3:RestoreObject"]                        # a copy out of Deep Archive for some days; the object stays as it is
  }
  keys = {
    read    = ["kms:Decrypt"]
    write   = ["kms:GenerateDataKey", "kms:Decrypt"] # a multipart upload decrypts its parts
    restore = ["kms:Decrypt"]
  }

  grants = { for role, row in var.roles : role => flatten([for number, grant in row.grants : [
    { Sid = "Objects${number}", Effect = "Allow", Action = local.objects[grant.access],
    Resource = ["arn:aws:s3:::${var.name}-${grant.class}/${grant.prefix}*"] },
    { Sid = "List${number}", Effect = "Allow", Action = ["s3:ListBucket"], Resource = ["arn:aws:s3:::${var.name}-${grant.class}"],
    Condition = { StringLike = { "s3:prefix" = ["${grant.prefix}*"] } } },
    { Sid      = "Key${number}", Effect = "Allow", Action = local.keys[grant.access],
      Resource = local.keys_arn,
      Condition = {
        StringEquals               = { "kms:ViaService" = "s3.${var.region}.amazonaws.com" }
        "ForAnyValue:StringEquals" = { "kms:ResourceAliases" = "alias/${var.name}-${grant.class}" }
    } },
  ]]) }

  blocks = {
    describe   = local.describe
    apply      = local.apply
    apply-data = local.apply_data
    metrics = [
      { Sid = "Metrics", Effect = "Allow", Action = ["aps:RemoteWrite"],
      Resource = ["arn:aws:aps:${var.region}:${var.account_id}:workspace/*"] },
    ]
  }

  documents = { for role, row in var.roles : role => jsonencode({
    Version = "2012-10-17"
    # the list is never empty: IAM refuses a policy without a statement
    Statement = concat(local.grants[role], [for block in row.allows : local.blocks[block]]...)
  }) }
}
