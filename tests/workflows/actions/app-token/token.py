"""The same token as tests/workflows/stand_in.py makes."""

import base64
import hashlib
import json
import os

assert os.environ["APP"] == "7"
assert os.environ["KEY"] == "the-private-key-of-the-app"
permissions = {
    name.removeprefix("PERMISSION_").lower().replace("_", "-"): value
    for name, value in os.environ.items()
    if name.startswith("PERMISSION_") and value
}
claims = json.dumps({"actor": "sekisho[bot]", "permissions": permissions})
digest = hashlib.sha256(claims.encode()).hexdigest()
token = f"token.{base64.urlsafe_b64encode(claims.encode()).decode()}.{digest}"
print(f"::add-mask::{token}")
with open(os.environ["GITHUB_OUTPUT"], "a") as file:  # noqa: PTH123 (runs with any Python)
    file.write(f"token={token}\n")
