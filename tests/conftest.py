"""What several rooms' tests stand on."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
import s3fs
from moto.server import ThreadedMotoServer


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An address in an empty bucket of a server that stands in for S3."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_REGION": "ap-northeast-1",
        "AWS_ENDPOINT_URL_S3": f"http://{host}:{port}",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    httpx.post(f"http://{host}:{port}/moto-api/reset")
    s3fs.S3FileSystem().mkdir("store")
    yield "s3://store/things"
    server.stop()
    s3fs.S3FileSystem.clear_instance_cache()
