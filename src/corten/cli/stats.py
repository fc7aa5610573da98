"""`corten stats`: what containers use, one row each, once or again and again.

The columns are Docker's; those that Docker lacks (pressure, throttling, peaks, limits that were hit) stand in templates
and in `--format json` alone.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import click

from corten import errors
from corten.cli.command import Command, Failure, daemon_error, operands
from corten.cli.session import Session, pass_session
from corten.cli.table import FORMAT, filters, write_rows
from corten.cli.transport import Client
from corten.cli.units import binary_size, human_size

Json = Mapping[str, Any]

_COLUMNS = (
    ("ID", "CONTAINER ID"),
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
)
_OURS = {
    "CPUThrottled": "CPU THROTTLED",
    "CPUPressure": "CPU PRESSURE",
    "MemPressure": "MEM PRESSURE",
    "IOPressure": "IO PRESSURE",
    "MemPeak": "MEM PEAK",
    "PIDsPeak": "PIDS PEAK",
    "OOMKills": "OOM KILLS",
    "PIDsLimitHits": "PIDS LIMIT HITS",
}
_NO_ROW = dict.fromkeys((*(name for name, _ in _COLUMNS), *_OURS), "--") | {"MemUsage": "-- / --"}
_TICK_S = 0.5
_HOME, _REST_OF_LINE, _REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"
_NOTHING = "--"
_BROKEN = (errors.CortenError, OSError, ValueError, http.client.HTTPException)  # what a stream ends with


@dataclass(slots=True)
class Watched:
    """One container, its last sample, why there is none, whether there will be no more; `asked`: the user's word."""

    asked: str
    sample: Json | None = None
    error: errors.CortenError | None = None
    is_gone: bool = False
    first: threading.Event = field(default_factory=threading.Event)


@click.command(
    "stats",
    cls=Command,
    operands="[OPTIONS] [CONTAINER...]",
    help="Display a live stream of container(s) resource usage statistics",
)
@click.option("-a", "--all", "all_", is_flag=True, help="Show all containers (default shows just running)")
@click.option("--format", "form", default="", help=FORMAT)
@click.option("--no-stream", is_flag=True, help="Disable streaming stats and only pull the first result")
@click.option("--no-trunc", is_flag=True, help="Do not truncate output")
@operands()
@pass_session
def stats(
    session: Session, /, operands: tuple[str, ...], all_: bool, form: str, no_stream: bool, no_trunc: bool
) -> None:
    """Shows what containers use."""
    board = Board(session.client, is_stream=not no_stream, is_all=all_)
    if operands:
        board.watch(operands)
    else:
        board.watch_all()
    board.wait_for_first()
    board.raise_failures()
    if no_stream:
        _write(board.rows(no_trunc), form)
        return
    while not board.is_over:
        _draw(board.rows(no_trunc), form)
        time.sleep(_TICK_S)


def _write(rows: Sequence[Mapping[str, str]], form: str) -> None:
    headings = {"Container": "CONTAINER", **_OURS}
    write_rows(rows, _COLUMNS, form=form, headings=headings, kind="container.statsContext")


def _draw(rows: Sequence[Mapping[str, str]], form: str) -> None:
    """The table over the one before, line by line, so that nothing flickers."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        _write(rows, form)
    lines = "".join(f"{line} {_REST_OF_LINE}\n" for line in text.getvalue().split("\n"))
    sys.stdout.write(f"{_HOME}{lines}{_REST_OF_SCREEN}")
    sys.stdout.flush()


class Board:
    """The containers that are shown, each with a thread that keeps its last sample."""

    def __init__(self, client: Client, *, is_stream: bool, is_all: bool) -> None:
        self._client = client
        self._is_stream, self._is_all = is_stream, is_all
        self._watched: list[Watched] = []
        self._lock = threading.Lock()
        self.is_over = False  # the engine went away

    def watch(self, names: Sequence[str]) -> None:
        """These, in their order."""
        for name in names:
            self._add(name)

    def watch_all(self) -> None:
        """Those that run (or all), and while it streams those that come."""
        news = self._client.stream("GET", "/events", query=_EVENTS) if self._is_stream else None
        for one in self._client.json("GET", "/containers/json", query={"all": self._is_all}):
            self._add(one["Id"][:12])
        if news is not None:
            threading.Thread(target=self._follow, args=(news,), daemon=True).start()

    def wait_for_first(self) -> None:
        """Until each container has shown something."""
        for one in self._now():
            one.first.wait()

    def raise_failures(self) -> None:
        """Raises Failure with a line for each container that could not be looked at."""
        failed = [daemon_error(one.error).message for one in self._now() if one.error is not None]
        if failed:
            raise Failure("\n".join(failed))

    def rows(self, no_trunc: bool) -> list[dict[str, str]]:
        """One a container."""
        return [row(one, no_trunc=no_trunc) for one in self._now()]

    def _now(self) -> list[Watched]:
        with self._lock:
            return list(self._watched)

    def _add(self, name: str) -> None:
        with self._lock:
            if any(one.asked == name for one in self._watched):
                return
            one = Watched(name)
            self._watched.append(one)
        threading.Thread(target=self._sample, args=(one,), daemon=True).start()

    def _drop(self, name: str) -> None:
        with self._lock:
            self._watched = [one for one in self._watched if one.asked != name]

    def _sample(self, one: Watched) -> None:
        query = {"stream": "1" if self._is_stream else "0"}
        try:
            for sample in self._client.stream("GET", f"/containers/{one.asked}/stats", query=query):
                one.sample = sample
                if sample["precpu_stats"].get("system_cpu_usage") or not sample["cpu_stats"].get("system_cpu_usage"):
                    one.first.set()
        except errors.CortenError as error:
            one.error = error
        except _BROKEN as error:
            one.error = errors.Unavailable(str(error))
        one.is_gone = self._is_stream
        one.first.set()

    def _follow(self, news: Iterator[Json]) -> None:
        """New containers join, ended ones leave."""
        try:
            for event in news:
                name = event["Actor"]["ID"][:12]
                if event["Action"] == ("create" if self._is_all else "start"):
                    self._add(name)
                elif event["Action"] == ("destroy" if self._is_all else "die"):
                    self._drop(name)
        except _BROKEN:
            pass
        self.is_over = True


_EVENTS = {"filters": filters(["type=container", "event=create", "event=start", "event=die", "event=destroy"])}


# The figures.


def row(one: Watched, *, no_trunc: bool) -> dict[str, str]:
    """What a template sees of a container (Docker's CLI, formatter_stats.go)."""
    sample = one.sample
    if sample is None or one.is_gone:
        return {**_NO_ROW, "Container": one.asked}
    used, limit = _memory(sample)
    networks = (sample.get("networks") or {}).values()
    received, sent = (sum(interface[name] for interface in networks) for name in ("rx_bytes", "tx_bytes"))
    read, written = _blocks(sample)
    return {
        "Container": one.asked,
        "Name": sample["name"].lstrip("/"),
        "ID": sample["id"] if no_trunc else sample["id"][:12],
        "CPUPerc": f"{cpu_percent(sample):.2f}%",
        "MemUsage": f"{binary_size(used)} / {binary_size(limit)}",
        "MemPerc": f"{used / limit * 100 if limit else 0.0:.2f}%",
        "NetIO": f"{human_size(received)} / {human_size(sent)}",
        "BlockIO": f"{human_size(read)} / {human_size(written)}",
        "PIDs": str(sample["pids_stats"].get("current", 0)),
        **_ours(sample),
    }


def cpu_percent(sample: Json) -> float:
    """Of one CPU, since the sample before; 100 % a CPU."""
    now, before = sample["cpu_stats"], sample["precpu_stats"]
    used = now["cpu_usage"]["total_usage"] - before["cpu_usage"]["total_usage"]
    passed = now.get("system_cpu_usage", 0) - before.get("system_cpu_usage", 0)
    count = now.get("online_cpus") or len(now["cpu_usage"].get("percpu_usage") or ())
    return used / passed * count * 100 if used > 0 and passed > 0 else 0.0


def _memory(sample: Json) -> tuple[int, int]:
    """Bytes in use, without pages that the kernel could drop at once, and the limit."""
    found = sample["memory_stats"]
    used, counts = found.get("usage", 0), found.get("stats") or {}
    cached = counts.get("total_inactive_file", counts.get("inactive_file", 0))
    return used - cached if cached < used else used, found.get("limit", 0)


def _blocks(sample: Json) -> tuple[int, int]:
    read = written = 0
    for entry in sample["blkio_stats"].get("io_service_bytes_recursive") or ():
        kind = entry["op"][:1].lower()
        read += entry["value"] if kind == "r" else 0
        written += entry["value"] if kind == "w" else 0
    return read, written


def _ours(sample: Json) -> dict[str, str]:
    """`--` for what the engine, or its kernel, does not tell."""
    extra = sample.get("corten") or {}
    peaks, hits = extra.get("peaks") or {}, extra.get("events") or {}
    pressure = extra.get("pressure") or {}
    shares = {name: (pressure.get(name) or {}).get("some", {}).get("avg10") for name in ("cpu", "memory", "io")}
    throttling = sample["cpu_stats"]["throttling_data"]
    before = sample["precpu_stats"]["throttling_data"]
    periods = throttling["periods"] - before["periods"]
    throttled = throttling["throttled_periods"] - before["throttled_periods"]
    return {
        "CPUThrottled": f"{throttled / periods * 100 if periods > 0 else 0.0:.2f}%",
        **{title: _percent(shares[name]) for title, name in _PRESSURES},
        "MemPeak": binary_size(peaks["memory_bytes"]) if "memory_bytes" in peaks else _NOTHING,
        "PIDsPeak": str(peaks.get("pids", _NOTHING)),
        "OOMKills": str(hits.get("oom_kills", _NOTHING)),
        "PIDsLimitHits": str(hits.get("pids_limit", _NOTHING)),
    }


_PRESSURES = (("CPUPressure", "cpu"), ("MemPressure", "memory"), ("IOPressure", "io"))


def _percent(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:.2f}%"
