"""A TCP proxy that does what bad networks do: the kernel of the test machines has no netem.

It delays, holds bytes back as lost packets do until they are sent again, flips bytes, and cuts connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

#: A retransmission after a lost packet: Linux' least timeout.
RESEND_S = 0.2


@dataclass
class Faults:
    """What happens to the bytes that pass; may be changed while they do."""

    delay_s: float = 0.0
    """Each chunk arrives so much later, and up to half as much again."""
    loss: float = 0.0
    """Share of the chunks that arrive after a retransmission only, as everything behind them does."""
    flip: float = 0.0
    """Share of the chunks in which a byte is another, of those that go to the trainer."""
    flip_from: int = 0
    """Bytes of a connection that are spared: those in which it is set up."""
    cut_after: int | None = None
    """Connections are reset once so many bytes went to the trainer."""
    frozen: bool = False
    """Nothing passes, and nothing is closed."""


class Proxy:
    """Passes connections to ``127.0.0.1:port`` on until it is closed; counts what it did."""

    def __init__(self, target: int, faults: Faults, seed: int) -> None:
        self.target, self.faults, self.random = target, faults, random.Random(seed)
        self.connections = self.cuts = self.flips = self.losses = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.close()
            return
        ways = [
            asyncio.ensure_future(self._pass(reader, back, to_trainer=False)),
            asyncio.ensure_future(self._pass(there, writer, to_trainer=True)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        for side in (writer, back):
            with contextlib.suppress(OSError):
                side.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, to_trainer: bool) -> None:
        passed, faults = 0, self.faults
        while chunk := await reader.read(1 << 16):
            while faults.frozen:
                await asyncio.sleep(0.02)
            if faults.delay_s:
                await asyncio.sleep(faults.delay_s * self.random.uniform(1.0, 1.5))
            if self.random.random() < faults.loss:
                self.losses += 1
                await asyncio.sleep(RESEND_S)
            if to_trainer and passed >= faults.flip_from and self.random.random() < faults.flip:
                self.flips += 1
                place = self.random.randrange(len(chunk))
                chunk = chunk[:place] + bytes([chunk[place] ^ 0xFF]) + chunk[place + 1 :]
            passed += len(chunk)
            try:
                writer.write(chunk)
                await writer.drain()
            except OSError:
                return
            if to_trainer and faults.cut_after is not None and passed >= faults.cut_after:
                self.cuts += 1
                # Closed with a reset, as by a machine that is gone.
                sock: socket.socket = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
                return

    def close(self) -> None:
        """Closes the port and what passes."""

        async def end() -> None:
            self._server.close()
            for task in asyncio.all_tasks():
                if task is not asyncio.current_task():
                    task.cancel()

        with contextlib.suppress(Exception):
            self._run(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
