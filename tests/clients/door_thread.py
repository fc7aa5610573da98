"""The door with a fake engine, in a thread of its own, for clients that block."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, TypeVar

from support import peers
from unit.docker.raw_client import Harness

T = TypeVar("T")


class DoorThread:
    """A context manager; `host` is what DOCKER_HOST takes."""

    def __init__(self, folder: str) -> None:
        self.path = f"{folder}/s"
        self.host = f"unix://{self.path}"
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.harness: Harness

    def __enter__(self) -> DoorThread:
        self._thread.start()
        self.harness = self.run(self._make())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.run(self.harness.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()

    async def _make(self) -> Harness:
        harness = Harness(self.path)
        await harness.start()
        return harness

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine in the door's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(15)

    def docker(self, *args: str, stdin: bytes | None = None, **env: str) -> subprocess.CompletedProcess[bytes]:
        """Run the real docker CLI against the door."""
        environment = {"PATH": os.environ["PATH"], "HOME": self._folder, "DOCKER_HOST": self.host, **env}
        return subprocess.run(
            [str(peers.docker_cli()), *args],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            check=False,
            timeout=30,
            env=environment,
        )
