# The account and its people. Zeros: not set, and no account of AWS will be touched.
account_id = "000000000000"
