"""`bench/scale.py`: what containers cost when there are many, for Corten and for dockerd, up to a thousand.

One engine at a time, so that neither is measured beside the other's containers: it is given more and more of them and
measured at each of `--counts`.  One that cannot go on ends its curve there, and says why.  `--output
docs/performance.md` puts the tables behind the heading HEADING of that page and the picture beside it.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests"), str(HERE.parent / "src")]

import crowd as crowds  # noqa: E402  (the path is set above: bench is run, not installed)
import picture  # noqa: E402
from api import KeptConnection  # noqa: E402
from crowd import Crowd, Failed  # noqa: E402
from harness import REST_S  # noqa: E402
from resources import processes, pss_mb  # noqa: E402

from support import images  # noqa: E402
from support.dockerd import DockerClient, Dockerd  # noqa: E402
from support.engine import CortenEngine  # noqa: E402

HEADING: Final = "## A thousand containers"
PICTURE: Final = "scale.svg"
COUNTS: Final = (1, 10, 50, 100, 200, 500, 1000)
FLOOR_MB: Final = 3000  # what the machine keeps: a curve ends before
ENGINES: Final = ("corten", "dockerd")


@dataclass(frozen=True, slots=True)
class Measure:
    """A row of the table and a panel of the picture; `digits` after the point."""

    key: str
    title: str
    unit: str
    digits: int = 1


MEASURES: Final = (
    Measure("start_1", "starts, 1 client", "/s"),
    Measure("start_8", "starts, 8 clients", "/s"),
    Measure("pss", "memory for each container", "MB PSS", 2),
    Measure("cpu", "CPU while all are idle", "% of a core", 2),
    Measure("wakeups", "wake-ups while all are idle", "/s"),
    Measure("list", "list (ps)", "ms"),
    Measure("inspect", "inspect", "ms", 2),
    Measure("stats", "stats of one", "ms", 2),
    Measure("stats_all", "stats of all, 8 clients", "s", 2),
    Measure("scrape", "scrape of all metrics", "ms"),
    Measure("event", "rename until its event is seen", "ms", 2),
    Measure("stop_8", "stops, 8 clients", "/s"),
    Measure("remove_8", "removals, 8 clients", "/s"),
    Measure("restart", "start of the engine beside them", "s", 2),
)
_CHECKED: Final = ("pss", "cpu", "wakeups")  # measured of containers with health checks


@dataclass(frozen=True, slots=True)
class Curve:
    """An engine's values by count and measure; `end` says why it has no more, "" when it has all."""

    points: Mapping[int, Mapping[str, float]]
    end: str = ""


@dataclass(frozen=True, slots=True)
class Effort:
    """How thoroughly."""

    rounds: int
    idle_s: float
    extra: int


def main() -> int:
    """Measures, prints, and writes what it was told to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", default=",".join(map(str, COUNTS)), help="ascending, comma separated")
    parser.add_argument("--checked", default="100,1000", help="counts of containers with health checks; '' for none")
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--output", type=Path, help="the page with the heading")
    given = parser.parse_args()
    if os.geteuid() != 0:
        print("scale: needs root", file=sys.stderr)
        return 1
    effort = Effort(3, 5, 5) if given.quick else Effort(15, 30, 20)
    names = given.engines.split(",")
    if given.output:
        placed(given.output.read_text(), "")  # a page without the heading is refused before anything is measured
    curves = {name: measured(name, numbers(given.counts), effort) for name in names}
    checked = {name: measured(name, numbers(given.checked), effort, has_checks=True) for name in names}
    print(text := report(curves, checked))
    if given.output:
        given.output.write_text(placed(given.output.read_text(), text))
        (given.output.parent / PICTURE).write_text(drawn(curves))
    return 0


def numbers(text: str) -> list[int]:
    """Of a comma separated list."""
    return [int(word) for word in text.split(",") if word]


def measured(name: str, counts: Sequence[int], effort: Effort, *, has_checks: bool = False) -> Curve:
    """The curve of a new engine of this name."""
    points: dict[int, Mapping[str, float]] = {}
    if not counts:
        return Curve(points)
    with _made(name) as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        crowd = Crowd(engine, has_checks=has_checks)
        crowd.remove(crowd.start(2))  # what the first ones need stays
        time.sleep(REST_S)
        base_mb = pss_mb(processes(engine))
        try:
            for count in counts:
                _grow(crowd, count)
                points[count] = _point(crowd, base_mb, effort, has_checks=has_checks)
                _tell(name, count, points[count])
        except Failed as error:
            return Curve(points, f"{len(crowd.ids)} run: {error}")
        finally:
            _clear(crowd)
    return Curve(points)


def _made(name: str) -> AbstractContextManager[DockerClient]:
    if name == "corten":
        return CortenEngine(args=("--metrics-addr", crowds.METRICS))
    return Dockerd("20.10")


def _grow(crowd: Crowd, count: int) -> None:
    """In steps, so that a curve ends before the machine does.  Raises Failed."""
    while (left := count - len(crowd.ids)) > 0:
        if crowds.available_mb() < FLOOR_MB:
            raise Failed(f"the machine has no more than {FLOOR_MB} MB left")
        crowd.ids += crowd.start(min(left, 50))


def _point(crowd: Crowd, base_mb: float, effort: Effort, *, has_checks: bool) -> dict[str, float]:
    if has_checks:
        time.sleep(REST_S)
        return crowds.rest_costs(crowd, base_mb, 2 * effort.idle_s)
    out = crowds.measure(crowd, base_mb, rounds=effort.rounds, idle_s=effort.idle_s, extra=effort.extra)
    if isinstance(crowd.engine, CortenEngine):
        out["restart"] = crowds.restart_s(crowd.engine)
    return out


def _clear(crowd: Crowd) -> None:
    """Of dockerd as long as it can; cortend's own --destroy ends the rest by itself."""
    try:
        crowd.remove([one["Id"] for one in _all(crowd.engine)])
    except (Failed, RuntimeError, OSError) as error:
        print(f"scale: containers are left to the end of the engine: {error}", file=sys.stderr)


def _all(engine: DockerClient) -> list[dict[str, str]]:
    connection = KeptConnection(engine.socket)
    found: list[dict[str, str]] = connection.call("GET", "/containers/json?all=1")
    connection.close()
    return found


def _tell(name: str, count: int, point: Mapping[str, float]) -> None:
    words = ", ".join(f"{key} {value:.2f}" for key, value in point.items())
    now = datetime.datetime.now(datetime.UTC)
    print(f"scale: {now:%H:%M:%S} {name}, {count}: {words}", file=sys.stderr, flush=True)


# What is made of it


def report(curves: Mapping[str, Curve], checked: Mapping[str, Curve]) -> str:
    """The tables and their circumstances."""
    now = datetime.datetime.now(datetime.UTC)
    head = f"Measured {now:%Y-%m-%d %H:%M} UTC, kernel {os.uname().release}, {os.cpu_count()} cores"
    parts = [f"{head}.", "", f"![the curves]({PICTURE})", "", table(MEASURES, curves)]
    if any(curve.points for curve in checked.values()):
        rows = [one for one in MEASURES if one.key in _CHECKED]
        parts += ["", "With a health check (`true`) every 30 s in each:", "", table(rows, checked)]
    for title, them in (("", curves), (" with health checks", checked)):
        parts += [f"\n{name}{title} ends: {curve.end}." for name, curve in them.items() if curve.end]
    return "\n".join([*parts, ""])


def table(measures: Sequence[Measure], curves: Mapping[str, Curve]) -> str:
    """A line per measure and engine, a column per count; a dash where nothing was measured."""
    counts = sorted({count for curve in curves.values() for count in curve.points})
    lines = ["| | | " + " | ".join(map(str, counts)) + " |", "|--|--|" + "--|" * len(counts)]
    for one in measures:
        shown = [name for name, curve in curves.items() if any(one.key in point for point in curve.points.values())]
        for name in shown:
            points = curves[name].points
            cells = [_cell(points.get(count, {}).get(one.key), one.digits) for count in counts]
            title = f"{one.title}, {one.unit}" if name == shown[0] else ""
            lines.append(f"| {title} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def drawn(curves: Mapping[str, Curve]) -> str:
    """The picture."""
    panels = []
    for one in MEASURES:
        series = {
            name: [(count, point[one.key]) for count, point in curve.points.items() if one.key in point]
            for name, curve in curves.items()
        }
        series = {name: points for name, points in series.items() if points}
        if series:
            panels.append(picture.Panel(one.title, one.unit, series))
    return picture.svg(panels, list(curves))


def placed(page: str, text: str) -> str:
    """The page with `text` between the line `<!-- scale -->` behind HEADING and the next heading; prose stays."""
    mark = "<!-- scale -->\n"
    before, found, rest = page.partition(mark)
    if not found or HEADING not in before:
        raise ValueError(f"no line {mark.strip()!r} behind {HEADING!r}: the tables' place is there")
    _, heading, after = rest.partition("\n## ")
    return f"{before}{mark}\n{text}{heading}{after}"


if __name__ == "__main__":
    sys.exit(main())
