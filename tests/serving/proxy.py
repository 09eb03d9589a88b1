"""A proxy before replicas, as a cluster's load balancer: it asks who is ready, and joins byte streams.

``python -m tests.serving.proxy PORT HTTP:PORT…``: new connections go in turn to the second port of each
replica whose first says that it is ready.
"""

from __future__ import annotations

import asyncio
import itertools
import sys

import uvloop

CHECK = 0.05  # seconds between two questions to each replica


class Proxy:
    """Byte streams to whichever replica was ready when they began."""

    def __init__(self, ports: list[int]) -> None:
        self._ready: dict[int, bool] = dict.fromkeys(ports, False)
        self._turns = itertools.count()

    async def watch(self, asked: int, port: int) -> None:
        while True:
            self._ready[port] = await self._is_ready(asked)
            await asyncio.sleep(CHECK)

    async def _is_ready(self, port: int) -> bool:
        try:
            async with asyncio.timeout(2):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                answer = await reader.read()
                writer.close()
                return answer.startswith(b"HTTP/1.1 200")
        except (OSError, TimeoutError):
            return False

    async def join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ready = [port for port, is_ready in self._ready.items() if is_ready] or list(self._ready)
        try:
            there = await asyncio.open_connection("127.0.0.1", ready[next(self._turns) % len(ready)])
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(_pump(reader, there[1]), _pump(there[0], writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()
    except OSError:
        writer.transport.abort()


async def main(port: int, replicas: list[list[int]]) -> None:
    proxy = Proxy([there for _, there in replicas])
    watching = [asyncio.create_task(proxy.watch(*replica)) for replica in replicas]
    server = await asyncio.start_server(proxy.join, "127.0.0.1", port)
    await asyncio.gather(server.serve_forever(), *watching)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), [[int(port) for port in one.split(":")] for one in sys.argv[2:]]))
