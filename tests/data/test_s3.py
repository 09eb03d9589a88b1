"""The adapter reads s3:// with what the environment says (a small stand-in for S3 answers)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import polars as pl
import pytest

from sekisho.data.adapter import Mapping, adapted
from sekisho.data.contract import COLUMNS
from sekisho.data.store import write_partition
from sekisho.errors import DataError
from sekisho.params import DataParams

LISTING = """<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name><IsTruncated>false</IsTruncated>
{}</ListBucketResult>"""
ENTRY = (
    "<Contents><Key>{}</Key><LastModified>2025-01-06T00:00:00.000Z</LastModified><Size>{}</Size></Contents>"
)


class Bucket(BaseHTTPRequestHandler):
    """ListObjectsV2, HEAD and ranged GET of a folder, path-style, signed requests only."""

    root: Path
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        url = urlparse(self.path)
        if "AWS4-HMAC-SHA256 Credential=tester/" not in self.headers.get("Authorization", ""):
            self._answer(403, b"<Error><Code>AccessDenied</Code></Error>")
        elif "list-type" in (query := parse_qs(url.query)):
            prefix = query.get("prefix", [""])[0]
            names = {str(p.relative_to(self.root)): p.stat().st_size for p in self.root.rglob("*.parquet")}
            found = [ENTRY.format(n, s) for n, s in sorted(names.items()) if n.startswith(prefix)]
            self._answer(200, LISTING.format("".join(found)).encode())
        else:
            self._object(self.root / url.path.removeprefix("/b/"))

    do_HEAD = do_GET

    def _object(self, path: Path) -> None:
        if not path.is_file():
            return self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        body = path.read_bytes()
        wanted = self.headers.get("Range")
        if not wanted:
            return self._answer(200, body)
        first, last = wanted.removeprefix("bytes=").split("-")
        start = int(first) if first else max(0, len(body) - int(last))
        stop = min(int(last) + 1, len(body)) if first and last else len(body)
        self._answer(206, body[start:stop], **{"Content-Range": f"bytes {start}-{stop - 1}/{len(body)}"})

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        fixed = {
            "Content-Length": str(len(body)),
            "ETag": '"1"',
            "Last-Modified": "Mon, 06 Jan 2025 00:00:00 GMT",
        }
        for name, value in (fixed | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Here", (Bucket,), {"root": tmp_path}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "ap-northeast-1",
    }.items():
        monkeypatch.setenv(name, value)
    yield tmp_path
    server.shutdown()
    server.server_close()


MAPPING = Mapping(
    columns={name: name for name in COLUMNS}, time_zone="UTC", time_is="close", partition="session"
)


def test_bars_come_from_s3(bucket: Path, params: DataParams, three_sessions: pl.DataFrame) -> None:
    for (symbol,), part in three_sessions.partition_by("symbol", as_dict=True).items():
        (bucket / "bars" / symbol).mkdir(parents=True)
        write_partition(part.select(list(COLUMNS)), bucket / "bars" / symbol / "all.parquet")
    parts = dict(adapted("s3://b/bars/**/*.parquet", MAPPING, params))
    found = pl.concat(parts.values())
    assert list(parts) == ["2025-01-06", "2025-01-07", "2025-01-08"]
    assert found.select(list(COLUMNS)).equals(three_sessions.select(list(COLUMNS)))
    assert set(found["file"].str.extract("(SYN.)")) == set(found["symbol"])


def test_nothing_under_an_s3_prefix_is_an_error_that_names_it(bucket: Path, params: DataParams) -> None:
    with pytest.raises(DataError, match=r"s3://b/none/\*\.parquet: cannot be read"):
        dict(adapted("s3://b/none/*.parquet", MAPPING, params))
