"""Requests that schemathesis makes of the API's description: no failure that is not dockerd's too, no hang, no leak.

schemathesis, a peer, makes requests that the description allows and others that it forbids (`case_maker.py`).  They are
sent from here: what they name is there, and a stream is left as soon as it has begun.  Where Corten fails, in words, it
is asked again, and so is dockerd 26.1, each with a container that is new.  CORTEN_FUZZ_SEED is the seed.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from clients import api_description
from clients.api import Api, Connection
from clients.test_answer_schema import served
from clients.test_fuzzed_requests import is_told
from corten.docker.versions import Version, version_text
from support import images, paths, peers, pypeers, summary
from support.dockerd import Dockerd
from support.engine import CortenEngine
from support.leaks import Snapshot, Subject, expect_none
from support.warmup import warm_up

MAKER = Path(__file__).with_name("case_maker.py")
DOCKERD: Version = (1, 45)
LEFT_OUT = {
    "POST /auth",
    "POST /images/create",
    "POST /images/{name}/push",
    "GET /distribution/{name}/json",
}  # registry
EXEC = "0" * 64  # in a request: an exec that is made for it
THERE = {"containers": "fuzzed", "exec": EXEC, "images": "fuzzed:1", "volumes": "fuzzed", "networks": "bridge"}
FUZZED = {"Image": images.BUSYBOX_REF, "Cmd": ["sleep", "6000"], "StopSignal": "KILL"}
BY_CHANCE = re.compile(r"/(containers|images|exec)/[0-9a-f]{1,12}(/|\?|$)")  # perhaps the beginning of an id
TIDY = 400  # requests after which the engine is cleared
HANG_S = 30.0

# (METHOD /path, words of Corten's answer, why dockerd does not fail)
KNOWN: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Case:
    """One request; `target` is its path with names and query, without the version."""

    method: str
    path: str
    target: str
    headers: dict[str, str]
    body: bytes | None

    @property
    def operation(self) -> str:
        """As the description names it."""
        return f"{self.method} {self.path}"

    def __str__(self) -> str:
        return f"{self.method} {self.target[:300]} {(self.body or b'')[:600].decode(errors='replace')}"


def cases(seed: int, count: int) -> list[Case]:
    """What schemathesis makes of the description: kept in the cache, as it is the same for a seed."""
    wanted = json.dumps([f"{method} {path}" for method, path in served() if f"{method} {path}" not in LEFT_OUT])
    words = [str(seed), str(count), wanted, json.dumps(THERE)]
    given = (api_description.file().read_text(), MAKER.read_text(), *pypeers.PACKAGES, *words)
    made = paths.cache("cases") / f"{hashlib.sha256(repr(given).encode()).hexdigest()[:16]}.jsonl"
    with peers.locked(paths.cache("cases")):
        if not made.exists():
            _make(made, words)
    found = [_case(*json.loads(line)) for line in made.read_text().splitlines()]
    return [case for case in found if not BY_CHANCE.match(case.target)]


def _make(made: Path, words: Sequence[str]) -> None:
    fresh = made.with_suffix(f".{os.getpid()}")
    with fresh.open("w") as out:
        subprocess.run(
            [pypeers.python(), "-W", "ignore", MAKER, api_description.file(), *words],
            check=True,
            stdout=out,
            cwd=made.parent,
            timeout=900,
            env=os.environ | {"PYTHONHASHSEED": "0"},
        )
    fresh.rename(made)


def _case(method: str, path: str, target: str, headers: dict[str, str], body: str | None) -> Case:
    data = None if body is None else base64.b64decode(body)
    if path == "/containers/create" and data and isinstance(document := _parsed(data), dict):
        data = json.dumps(document | {"Image": images.BUSYBOX_REF}).encode()
        headers["Content-Length"] = str(len(data))
    return Case(method, path, target, headers, data)


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None


@dataclass(slots=True)
class Asked:
    """An engine to which requests are sent."""

    api: Api
    answers: Counter[int] = field(default_factory=Counter)

    def prepare(self, case: Case, *, fresh: bool = False) -> None:
        """What a request may ask for by name: a container that runs, an image, a volume."""
        kind = case.path.split("/")[1]
        if kind in ("containers", "exec", "commit"):
            self._run(fresh=fresh)
        elif kind == "images":
            self.api.ok("POST", f"/images/{quote(images.BUSYBOX_REF, safe='')}/tag?repo=fuzzed&tag=1")
        elif kind == "volumes":
            self.api.ok("POST", "/volumes/create", {"Name": "fuzzed"})

    def _run(self, *, fresh: bool) -> None:
        status, found = self.api.call("GET", "/containers/fuzzed/json")
        if fresh or status != 200 or not found["State"]["Running"] or found["State"]["Paused"]:
            self.api.remove("fuzzed")
            self.api.ok("POST", "/containers/create?name=fuzzed", FUZZED)
            self.api.ok("POST", "/containers/fuzzed/start")

    def send(self, case: Case) -> tuple[int, Any]:
        """(status, the answer: parsed JSON, bytes, or None for a stream, which is left)."""
        target = case.target
        if EXEC in target:
            target = target.replace(EXEC, self.api.ok("POST", "/containers/fuzzed/exec", {"Cmd": ["true"]})["Id"])
        with closing(Connection(self.api.path, HANG_S)) as connection:
            connection.request(case.method, f"/v{self.api.version}{target}", case.body, case.headers)
            answer = connection.getresponse()
            self.answers[answer.status] += 1
            return answer.status, _read(answer)

    def clear(self) -> None:
        """Removes what requests made: containers, volumes, and all images but the one that is used."""
        for row in self.api.ok("GET", "/containers/json?all=1"):
            self.api.remove(row["Id"])
        for row in self.api.ok("GET", "/volumes")["Volumes"] or ():
            self.api.call("DELETE", f"/volumes/{quote(row['Name'], safe='')}?force=1")
        for row in self.api.ok("GET", "/images/json?all=1"):
            for name in row["RepoTags"] or [row["Id"]]:
                if name != images.BUSYBOX_REF:
                    self.api.call("DELETE", f"/images/{quote(name, safe='')}?force=1")


def _read(answer: http.client.HTTPResponse) -> Any:
    """The body of an answer that says how long it is, or of an error."""
    if answer.length is None and answer.status < 400:
        return None
    raw = answer.read()
    return (_parsed(raw) or raw) if answer.headers.get_content_type() == "application/json" else raw


def failures(asked: Asked, given: Sequence[Case]) -> Iterator[tuple[Case, int, Any]]:
    """What ended in 500 or not at all."""
    for number, case in enumerate(given):
        if number % TIDY == TIDY - 1:
            asked.clear()
        try:
            asked.prepare(case)
            status, answer = asked.send(case)
        except (OSError, http.client.HTTPException) as error:
            yield case, 0, repr(error)
            continue
        if status >= 500 and status != 501:
            yield case, status, answer


def kind(case: Case, status: int, answer: Any) -> tuple[str, int, str]:
    """What failures have in common: operation, status, words without what they quote."""
    return case.operation, status, re.sub(r'\\?"[^"]*"|\b[0-9a-f]{64}\b', "…", str(answer))[:200]


def wrong(case: Case, status: int, answer: Any, asked: Asked, reference: Asked) -> str:
    """What is to be said of a failure; "" where dockerd fails as well, or where a row of KNOWN speaks of it."""
    told = status and (case.method == "HEAD" or is_told(answer))
    if told and any(operation == case.operation and words in str(answer) for operation, words, _ in KNOWN):
        return ""
    for engine in (asked, reference) if told else ():
        engine.prepare(case, fresh=True)
    again = asked.send(case)[0] if told else status
    theirs = reference.send(case)[0] if told else 0
    if told and (again < 500 or theirs >= 500):
        return ""
    return f"{case}: {status}, dockerd {theirs or 'not asked'}: {str(answer)[:300]}"


def play(engine: CortenEngine, dockerd: Dockerd, count: int) -> None:
    """Sends everything, and judges."""
    seed = int(os.environ.get("CORTEN_FUZZ_SEED", "5"))
    given = cases(seed, count)
    asked = Asked(Api(engine.socket, version_text(api_description.version())))
    reference = Asked(Api(dockerd.socket, version_text(min(DOCKERD, api_description.version()))))
    warm_up(engine)
    asked.prepare(given[0])
    engine.docker("cp", str(MAKER), "fuzzed:/", check=True)  # the launcher's copy, made at first use
    asked.clear()
    before = Snapshot.take(Subject.of(engine))
    found = list(failures(asked, given))
    # the same words of the same operation are judged once
    told = [
        text for failure in {kind(*one): one for one in found}.values() if (text := wrong(*failure, asked, reference))
    ]
    for one in (asked, reference):
        one.clear()
    summary.add("seeds", f"test_schemathesis: CORTEN_FUZZ_SEED={seed}, {len(given)} requests, {_counts(asked)}")
    assert not told, f"seed {seed}\n" + "\n".join(told)
    assert engine.is_running()
    assert {200, 201, 204, 400, 404} <= set(asked.answers), asked.answers
    expect_none(before)


def _counts(asked: Asked) -> str:
    return ", ".join(f"{status}: {count}" for status, count in sorted(asked.answers.items()))


@pytest.mark.timeout(600)
def test_no_request_that_schemathesis_makes_ends_in_a_failure_of_the_engine(
    engine: CortenEngine, dockerd: Dockerd
) -> None:
    play(engine, dockerd, 2)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_nor_does_any_of_thousands_with_every_limit_of_every_parameter(engine: CortenEngine, dockerd: Dockerd) -> None:
    play(engine, dockerd, 30)
