"""The same script of docker CLI commands against dockerd and Corten, and everything in which the two differ.

A script is lines of `docker` arguments.  After each line the whole engine is looked at through the API: inspect of
every container, volume and network, the images.  Status, output and what changed in the look are normalized (`normal`)
and compared; each difference has a command, a place and two values.  One that a row of `KNOWN` explains is counted for
that row, all others are failures, and so is a row that explains nothing any more.
"""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from clients.compare import IMAGE, Side, difference
from clients.normal import Normalizer

Json = Any


@dataclass(frozen=True, slots=True)
class Known:
    """A difference that stays: in which commands, at which place (both with `*`), and why.

    `is_open`: it is to go; that it has gone is then no failure.
    """

    command: str
    place: str
    reason: str
    is_open: bool = False

    def covers(self, found: Difference) -> bool:
        """Whether `found` is of this row."""
        return _fits(found.command, self.command) and _fits(found.place, self.place)


def _fits(text: str, pattern: str) -> bool:
    """fnmatch, in which a bracket stands for itself."""
    return fnmatch.fnmatchcase(text, pattern.replace("[", "[[]"))


@dataclass(frozen=True, slots=True)
class Difference:
    """One value in which the two engines differ after `command`."""

    command: str
    place: str
    text: str

    def __str__(self) -> str:
        return f"docker {self.command}: {self.text}"


@dataclass(frozen=True, slots=True)
class Step:
    """What one line showed: the client's answer and what changed in the engine."""

    command: str
    answer: Json
    changed: Json


def lines(script: str) -> list[str]:
    """The commands of a script; empty lines and comments are none."""
    return [line.strip() for line in script.splitlines() if line.strip() and not line.strip().startswith("#")]


def play(script: str, side: Side) -> list[Step]:
    """Runs a script on an engine that is cleared first."""
    side.clear()
    seen = look(side, {}, "")
    steps = []
    for line in lines(script):
        command, _, stdin = line.partition(" <<< ")
        answer = side.docker(*words(command, side), stdin=f"{shlex.split(stdin)[0]}\n" if stdin else None)
        now = look(side, seen, line)
        changed = {key: now.get(key, "gone") for key in now | seen if now.get(key) != seen.get(key)}
        steps.append(Step(line, answer, changed))
        seen = now
    side.clear()
    return steps


def words(command: str, side: Side) -> list[str]:
    """A line's words, with what is another for each engine."""
    names = {"{image}": IMAGE, "{shared}": str(side.shared), "{parent}": side.parent}
    found = shlex.split(command)
    for name, value in names.items():
        found = [word.replace(name, value) for word in found]
    return found


def look(side: Side, before: dict[str, Json], command: str) -> dict[str, Json]:
    """Every object of the engine, by kind and name; images by their names, as ids of made ones have times in them.

    A container is inspected again when its row is another than `before`, or when the command names it.
    """
    found: dict[str, Json] = {}
    for row in side.api("GET", "/containers/json", all="1")["body"]:
        names = {name.lstrip("/") for name in row["Names"]}
        known = [key for key in before if key.startswith("row ") and before[key]["Id"] == row["Id"]]
        if known and before[known[0]] == aged(row) and not names & set(command.split()):
            found |= {key: before[key] for key in (known[0], f"container {known[0].removeprefix('row ')}")}
            continue
        whole, settled = _settled(side, row["Id"])
        found[f"container {whole['Name']}"] = ordered(whole)
        found[f"row {whole['Name']}"] = aged(settled)
    for row in side.api("GET", "/volumes")["body"].get("Volumes") or ():
        found[f"volume {row['Name']}"] = row
    for row in self_made(side):
        found[f"network {row['Name']}"] = side.api("GET", f"/networks/{row['Id']}")["body"]
    found["images"] = sorted(sorted(row["RepoTags"]) for row in side.api("GET", "/images/json")["body"])
    return found


def self_made(side: Side) -> list[Json]:
    """Networks that somebody made: the others say what is another for each engine, and differ with each container."""
    return [row for row in side.api("GET", "/networks")["body"] if row["Name"] not in ("bridge", "host", "none")]


def aged(row: Json) -> Json:
    """A row of the list without how long ago something was."""
    ports = sorted(row["Ports"], key=lambda port: (port["PrivatePort"], port["Type"], port.get("IP", "")))
    return row | {"Status": _AGE.sub("<age>", row["Status"]), "Ports": ports}


def _settled(side: Side, container_id: str) -> tuple[Json, Json]:
    """Inspect and list of a container, when they agree: dockerd's list lags behind."""
    seen: list[tuple[Json, Json]] = []

    def agree() -> bool:
        whole = side.api("GET", f"/containers/{container_id}/json")["body"]
        rows = side.api("GET", "/containers/json", all="1", filters=json.dumps({"id": [container_id]}))["body"]
        seen.append((whole, rows[0]))
        return bool(rows[0]["State"] == whole["State"]["Status"] and not whole["ExecIDs"])

    side.until(agree)
    return seen[-1]


def compare(script: str, reference: Side, corten: Side, normal: Normalizer) -> list[Difference]:
    """Plays a script on both at once; the differences in order."""
    with ThreadPoolExecutor(1) as thread:
        expected = thread.submit(play, script, reference)
        seen = play(script, corten)
        theirs = expected.result()
    return [
        found
        for left, right in zip(theirs, seen, strict=True)
        for found in _differences(left, right, (reference, corten), normal)
    ]


def _differences(left: Step, right: Step, sides: tuple[Side, Side], normal: Normalizer) -> list[Difference]:
    shown = [
        normal({"answer": _without_made(step.answer), "changed": step.changed}, side.folder)
        for step, side in zip((left, right), sides, strict=True)
    ]
    texts = difference(*shown)
    if shown[0]["answer"]["status"] != shown[1]["answer"]["status"]:  # one refused it: all else follows
        texts = [text for text in texts if text.startswith((".answer.status", ".answer.stderr"))]
    return [Difference(left.command, text.partition(": dockerd ")[0], text) for text in texts]


def _without_made(answer: Json) -> Json:
    """An answer without the digests of images that were made here."""
    return {key: _DIGEST.sub("<digest>", text) if isinstance(text, str) else text for key, text in answer.items()}


def ordered(looked: Json) -> Json:
    """Lists that dockerd fills from a Go map, in the order of their text."""
    if isinstance(looked, dict):
        return {
            key: sorted(value, key=str) if key in UNORDERED and isinstance(value, list) else ordered(value)
            for key, value in looked.items()
        }
    return looked


_AGE = re.compile(r"Less than a second|About an? \w+|\d+ \w+(?= ago|$| \()")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
UNORDERED = frozenset({"Env", "Links", "Mounts", "Ports"})


def unexplained(found: Iterable[Difference], known: Sequence[Known]) -> list[str]:
    """The differences of which no row speaks, as text."""
    return [str(one) for one in found if not any(row.covers(one) for row in known)]


def idle(found: Sequence[Difference], known: Iterable[Known], scripts: Iterable[str]) -> list[Known]:
    """Rows for these scripts that explain none of the differences, though they should."""
    played = [line for script in scripts for line in lines(script)]
    mine = [row for row in known if not row.is_open and any(_fits(line, row.command) for line in played)]
    return [row for row in mine if not any(row.covers(one) for one in found)]


def table(known: Iterable[Known]) -> str:
    """The rows as docs/docker-compatibility.md has them."""
    lines = ["| `docker …` | why |", "|--|--|"]
    for row in known:
        command = row.command.replace("|", "\\|")
        lines.append(f"| `{command}` | {row.reason} |")
    return "\n".join(dict.fromkeys(lines))
