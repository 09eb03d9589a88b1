# The account and its people. Zeros: not set, and no account of AWS will be touched.
account_id = "000000000000"
people = {
  administrators = ["arn:aws:iam::000000000000:role/administrators"]
  page           = ["page@sekisho.test"]
  notice         = ["notice@sekisho.test"]
}
