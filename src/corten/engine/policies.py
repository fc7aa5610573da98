"""Policies: functions of the node's that are asked about every container (docs/policies.md).

They run in a process of their own (corten.policy.worker), started when they are loaded, asked one at a time.  One that
takes longer than LIMIT_S ends that process, which is started again for the next question with the texts that were
read: a file that has changed since is not read again before a reload.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from corten.core.asker import printable
from corten.engine.policyfiles import PolicyFile
from corten.engine.threads import in_own_thread
from corten.errors import CortenError, Internal, InvalidArgument, PermissionDenied, Unavailable

Json = dict[str, Any]

log = logging.getLogger("corten.engine")

LIMIT_S: Final = 5.0  # of one function, and of reading one file
_START_S: Final = 60.0  # a fresh interpreter: 30 ms, but not on every machine
_GRACE_S: Final = 5.0  # until one is killed that its own alarm does not end
_QUEUE_S: Final = 30.0
_ANSWER_BYTES: Final = 2 << 20
_BOOT: Final = "import sys; sys.path.insert(0, sys.argv[1]); from corten.policy.worker import main; main()"


class Function(msgspec.Struct, frozen=True):
    """One policy; `index`: its place in the order in which they are asked."""

    index: int
    file: str
    name: str
    line: int

    @property
    def text(self) -> str:
        """As it is named to people and in origins: `policy /etc/corten/limits.py:memory`."""
        return f"policy {self.file}:{self.name}"


class _Worker:
    """A process that has loaded the files."""

    def __init__(self, process: subprocess.Popen[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self._process = process
        self._reader = reader
        self._writer = writer

    async def ask(self, request: Json, timeout_s: float) -> Json | None:
        """The answer; None when it ended or did not give one in time."""
        try:
            async with asyncio.timeout(timeout_s):
                self._writer.write(msgspec.json.encode(request) + b"\n")
                await self._writer.drain()
                line = await self._reader.readline()
            answer: Json | None = msgspec.json.decode(line) if line.endswith(b"\n") else None
        except (TimeoutError, OSError, ValueError):
            return None
        return answer

    @property
    def is_gone(self) -> bool:
        """Whether it has ended by itself: somebody killed it."""
        return self._reader.at_eof()

    def end(self) -> None:
        """Kill it; it is reaped by a thread."""
        self._writer.close()
        self._process.kill()

    def reap(self) -> None:
        """For a thread."""
        self._process.wait()


class Policies:
    """What was loaded.  `close` lets those who ask get their answers first."""

    def __init__(self, files: Sequence[PolicyFile] = (), *, exec_root: str = "", limit_s: float = LIMIT_S) -> None:
        self._files = tuple(files)
        self._exec_root = exec_root
        self._limit_s = limit_s
        self._lock = asyncio.Lock()
        self._worker: _Worker | None = None
        self._asking = 0
        self._is_closed = False
        self.functions: tuple[Function, ...] = ()

    async def load(self) -> None:
        """Raises InvalidArgument naming file and line of what is wrong."""
        if self._files:
            self._worker = await self._start()

    async def ask(self, function: Function, view: Json) -> Json:
        """What it sets, {} for nothing.

        Raises PermissionDenied with its reason where it refuses, Internal naming file, function and line where it
        fails, Unavailable when others are asked for too long.
        """
        self._asking += 1
        try:
            async with contextlib.AsyncExitStack() as held:
                try:
                    async with asyncio.timeout(_QUEUE_S):
                        await held.enter_async_context(self._lock)
                except TimeoutError:
                    raise Unavailable(f"{function.text}: not asked within {_QUEUE_S:g} s") from None
                return await self._ask(function, view)
        finally:
            self._asking -= 1
            self._end_when_closed()

    async def _ask(self, function: Function, view: Json) -> Json:
        if self._worker is not None and self._worker.is_gone:
            self._drop()
        if self._worker is None:
            self._worker = await self._start()
        answer = None
        try:
            answer = await self._worker.ask({"call": function.index, "view": view}, self._limit_s + _GRACE_S)
        finally:
            if answer is None or "file" in answer:  # hung, ended, or left behind by who does not wait any more
                self._drop()
        if answer is None:
            raise Internal(f"{function.text} failed at line {function.line}: no answer: its process was ended")
        if "refused" in answer:
            raise PermissionDenied(f"authorization denied by {function.text}: {_line(answer['refused'])}")
        if "failed" in answer:
            raise Internal(f"{function.text} failed at line {answer['line']}: {_line(answer['failed'])}")
        return answer["values"] or {}

    async def _start(self) -> _Worker:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = await in_own_thread("policies", functools.partial(self._spawn, theirs))
            except OSError as error:
                ours.close()
                raise Unavailable(f"policies: {(error.strerror or str(error)).lower()}") from error
        ours.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=ours, limit=_ANSWER_BYTES)
        worker = _Worker(process, reader, writer)
        files = [[one.path, one.text] for one in self._files]
        answer = None
        try:
            limit_s = _START_S + len(files) * self._limit_s
            answer = await worker.ask({"files": files, "limit_s": self._limit_s}, limit_s)
            self.functions = self._loaded(answer)
        except BaseException:
            self._end(worker)
            raise
        return worker

    def _spawn(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        """With no word of cortend's environment, which may have passwords of proxies."""
        source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        argv = [sys.executable, "-ISE", "-c", _BOOT, source, self._exec_root]
        return subprocess.Popen(argv, stdin=theirs.fileno(), env={"PATH": os.defpath}, cwd="/", start_new_session=True)

    def _loaded(self, answer: Json | None) -> tuple[Function, ...]:
        if answer is None:
            raise InvalidArgument("no answer of the process that loads policies")
        if "failed" in answer:
            raise InvalidArgument(f"{answer['file']}: line {answer['line']}: {_line(answer['failed'])}")
        found = tuple(Function(index, *row) for index, row in enumerate(answer["functions"]))
        for file in self._files:
            if not any(one.file == file.path for one in found):
                raise InvalidArgument(f"{file.path}: no function in it is marked as a policy")
        return found

    def _drop(self) -> None:
        if self._worker is not None:
            self._end(self._worker)
            self._worker = None

    def _end(self, worker: _Worker) -> None:
        worker.end()
        task = asyncio.get_running_loop().create_task(in_own_thread("policies", worker.reap))
        task.add_done_callback(_ended)

    def close(self) -> None:
        """No more questions; the process ends with the last answer that somebody waits for."""
        self._is_closed = True
        self._end_when_closed()

    def _end_when_closed(self) -> None:
        if self._is_closed and not self._asking:
            self._drop()


async def check(files: Sequence[PolicyFile]) -> None:
    """Load and forget, for `--validate`.  Raises InvalidArgument as `load`."""
    policies = Policies(files)
    try:
        await policies.load()
    finally:
        policies.close()


def _ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("a process of policies is not reaped: %s", error)


def _line(text: Any) -> str:
    """What a policy says, as one line."""
    return printable(str(text))


def wrong(function: Function, error: CortenError) -> CortenError:
    """The error about a value that a policy has set, which names it."""
    return type(error)(f"{function.text}: {error.text}")
