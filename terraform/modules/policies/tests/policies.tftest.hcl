variables {
  name       = "sekisho-test"
  account_id = "123456789012"
  region     = "ap-northeast-1"
  roles = {
    drift = {
      purpose = "Judges"
      grants  = [{ class = "predictions", prefix = "log/", access = "read" }, { class = "predictions", prefix = "verdicts/", access = "write" }]
    }
  }
}

run "a_grant_becomes_objects_list_and_key" {
  command = plan
  assert {
    condition     = [for s in jsondecode(output.documents.drift).Statement : s.Sid] == ["Objects0", "List0", "Key0", "Objects1", "List1", "Key1"]
    error_message = "three statements a grant"
  }
  assert {
    condition     = jsondecode(output.documents.drift).Statement[3].Resource == ["arn:aws:s3:::sekisho-test-predictions/verdicts/*"]
    error_message = "writes go to the prefix only"
  }
  assert {
    condition     = !strcontains(output.documents.drift, "Delete")
    error_message = "no grant holds a delete"
  }
}

run "a_prefix_that_opens_its_neighbour_is_refused" {
  command = plan
  variables {
    roles = { x = { purpose = "x", grants = [{ class = "dvc", prefix = "pr", access = "read" }] } }
  }
  expect_failures = [var.roles]
}

run "an_unknown_access_is_refused" {
  command = plan
  variables {
    roles = { x = { purpose = "x", grants = [{ class = "dvc", prefix = "pr/", access = "delete" }] } }
  }
  expect_failures = [var.roles]
}
