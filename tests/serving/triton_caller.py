"""Triton's own clients, over HTTP (JSON and binary) and gRPC; runs in the environment of `make conformance`.

A plan on stdin (urls, rows, parameters), what every call gave on stdout.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from tritonclient.utils import InferenceServerException


def ask(client: Any, module: Any, plan: dict[str, Any], **options: Any) -> list[list[float]]:
    rows = np.array(plan["rows"], dtype=np.float32)
    tensor = module.InferInput("observation", list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows, **options)
    outputs = [module.InferRequestedOutput("target_weights", **options)]
    result = client.infer("policy", [tensor], outputs=outputs, request_id="t", parameters=plan["parameters"])
    weights: list[list[float]] = result.as_numpy("target_weights").tolist()
    return weights


def main() -> None:
    plan = json.loads(sys.stdin.read())
    http, grpc = over_http.InferenceServerClient(plan["http"]), over_grpc.InferenceServerClient(plan["grpc"])
    found: dict[str, Any] = {}
    for name, client in (("http", http), ("grpc", grpc)):
        found[f"{name} ready"] = [
            client.is_server_live(),
            client.is_server_ready(),
            client.is_model_ready("policy"),
        ]
    found["http metadata"] = http.get_model_metadata("policy")["inputs"][0]["name"]
    found["grpc metadata"] = grpc.get_model_metadata("policy").inputs[0].name
    found["json"] = ask(http, over_http, plan, binary_data=False)
    found["binary"] = ask(http, over_http, plan, binary_data=True)
    found["grpc"] = ask(grpc, over_grpc, plan)
    for name, client, module in (("http", http, over_http), ("grpc", grpc, over_grpc)):
        try:
            ask(client, module, {**plan, "parameters": {}})
            found[f"{name} error"] = None
        except InferenceServerException as error:
            found[f"{name} error"] = str(error)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
