"""`docker logs`: a container's log as a stream of bytes, to its end or on and on (`engine_api.LogStream`)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Callable
from typing import Final, Protocol

from corten import errors
from corten.engine import times
from corten.engine.container import Container, Waiter
from corten.engine.logconfig import LogPlace
from corten.engine.logfiles import Reader
from corten.engine.logread import Formatter, Query
from corten.errors import Internal
from corten.shim.logfile import NEW
from corten.sys.inotify import IN_MOVED_FROM, IN_Q_OVERFLOW, Watch

# Without inotify (the user's watches are used up) a follower looks this often.
_POLL_S: Final = 0.25
_MANY: Final = 1 << 20  # rotations that nobody has counted


class LogOptions(Protocol):
    """What the door passes (docker.engine_api.LogOptions)."""

    @property
    def stdout(self) -> bool: ...
    @property
    def stderr(self) -> bool: ...
    @property
    def follow(self) -> bool: ...
    @property
    def since(self) -> str: ...
    @property
    def until(self) -> str: ...
    @property
    def timestamps(self) -> bool: ...
    @property
    def tail(self) -> str: ...
    @property
    def details(self) -> bool: ...


class LogStream:
    """Life: `open`, then iterate once."""

    def __init__(
        self, find: Callable[[], Container], place_of: Callable[[Container], LogPlace | None], options: LogOptions
    ) -> None:
        self._find = find
        self._place_of = place_of
        self._options = options
        self._container: Container | None = None
        self._place: LogPlace | None = None
        self._query = Query()
        self.tty = False

    async def open(self) -> None:
        """Check the container and the options."""
        container = self._find()
        self._place = self._place_of(container)
        if self._place is None:
            raise errors.NotImplemented("configured logging driver does not support reading")
        self._query = parse_query(self._options)
        self.tty = container.record.effective.config.tty
        self._container = container

    async def __aiter__(self) -> AsyncIterator[bytes]:
        container, place = self._container, self._place
        assert container is not None
        assert place is not None
        # taken before anything is awaited: of a container that ends meanwhile the next exit may never come
        end = container.wait("next-exit") if self._options.follow and container.is_running else None
        follows = end is not None
        reader = await asyncio.to_thread(Reader, place.path, place.format, self._query.tail, follows=follows)
        growth: _Growth | None = None
        try:
            formatter = Formatter(self._query, raw=self.tty, format=place.format)
            if end is not None:
                growth = _Growth(place.path, end, reader.look)
                if growth.is_told:
                    reader.count(growth.rotations)
            while not formatter.is_past_until:
                block = await asyncio.to_thread(reader.read) if reader.is_slow else reader.read()
                out = formatter.gap(missed) if (missed := reader.missed()) else b""
                if out := out + formatter.format(block) if block else out:
                    yield out
                if not block and (growth is None or not await growth.wait()):
                    return
                await asyncio.sleep(0)  # neither a fast client nor a filter that nothing passes holds up all others
        finally:
            reader.close()
            if growth is not None:
                growth.close()


class _Growth:
    """Waits for a log to grow, until its container ends; `look` is called at each change, whoever waits for what."""

    def __init__(self, path: str, end: Waiter, look: Callable[[], None]) -> None:
        self._lock = threading.Lock()
        self._rotations = 0
        self._new = os.fsencode(os.path.basename(path) + NEW)
        self._look = look
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.ensure_future(end.result())
        self._changed = asyncio.Event()
        self._is_over = False
        self._watch: Watch | None = None
        with contextlib.suppress(OSError):
            self._watch = Watch(os.path.dirname(path))
            self._loop.add_reader(self._watch.fileno(), self._told)
        self._end.add_done_callback(lambda done: self._changed.set())

    @property
    def is_told(self) -> bool:
        """Whether it hears of changes, and need not look."""
        return self._watch is not None

    def _told(self) -> None:
        self._drain()
        self._changed.set()
        self._look()

    def rotations(self) -> int:
        """How many there were since this began; any thread may ask."""
        if self._drain():  # whoever is to wait for more has not heard of it
            self._loop.call_soon_threadsafe(self._changed.set)
        return self._rotations

    def _drain(self) -> bool:
        """Whether anything was told."""
        with self._lock:
            told = self._watch.drain() if self._watch is not None else []
            for mask, name in told:
                self._rotations += bool(mask & IN_MOVED_FROM) and name == self._new
                self._rotations += _MANY if mask & IN_Q_OVERFLOW else 0
        return bool(told)

    async def wait(self) -> bool:
        """True when there may be more; False once the container had ended before the last look."""
        if self._is_over:
            return False
        try:
            async with asyncio.timeout(None if self._watch is not None else _POLL_S):
                await self._changed.wait()
        except TimeoutError:
            pass
        self._changed.clear()
        self._is_over = self._end.done()
        return True

    def close(self) -> None:
        """Stop watching."""
        self._end.cancel()
        if self._watch is not None:
            self._loop.remove_reader(self._watch.fileno())
            with self._lock:  # a reader in a thread may be counting
                self._watch.close()
                self._watch = None


def parse_query(options: LogOptions) -> Query:
    """The options as values; what dockerd answers 500 for, too."""
    tail = options.tail
    return Query(
        stdout=options.stdout,
        stderr=options.stderr,
        timestamps=options.timestamps,
        details=options.details,
        since_ns=_moment(options.since),
        until_ns=_moment(options.until),
        tail=int(tail) if tail.isdecimal() and len(tail) < 19 else -1,
    )


def _moment(text: str) -> int:
    """Unix seconds with a fraction: the CLI has made them of everything else."""
    try:
        return times.parse_timestamp(text)
    except errors.InvalidArgument as error:
        raise Internal(f'strconv.ParseInt: parsing "{text}": invalid syntax') from error
