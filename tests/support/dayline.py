"""The line to an engine that is killed all the time: what a client did not hear of is asked again until it is heard.

Eras: an even number while cortend serves, an odd one from the moment in which it may be dead.  An answer within one
even era must be as it would be of an engine that nobody kills.
"""

from __future__ import annotations

import http.client
import json
import random
import re
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from clients.api import Api
from support import process
from support.daybox import Json, Untrue
from support.engine import CortenEngine

CLIENT_SECONDS = 60.0
ATTEMPTS = 60  # more than a day has deaths
UNHEARD = (OSError, http.client.HTTPException, json.JSONDecodeError)


class Eras:
    """Counts the deaths of cortend."""

    def __init__(self, engine: CortenEngine) -> None:
        self.engine = engine
        self.number = 0
        self._changed = threading.Condition()

    def kill(self, chance: random.Random, *, quiet_s: float = 0.0) -> None:
        """SIGKILL now; sometimes nobody is there for up to `quiet_s` seconds; then it serves again."""
        self._next()
        self.engine.kill9()
        time.sleep(chance.choice([0.0, 0.0, quiet_s * chance.random()]))
        try:
            self.engine.start()
        except process.NotReady:  # so much is to be done before it serves, on a busy machine
            process.wait_for(self.engine.answers, "answer of a new cortend", CLIENT_SECONDS)
        self._next()

    def _next(self) -> None:
        with self._changed:
            self.number += 1
            self._changed.notify_all()

    def when_up(self) -> int:
        """The era, as soon as cortend serves."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.number % 2 == 0, CLIENT_SECONDS):
                raise Untrue("cortend does not come back")
            return self.number


@dataclass(frozen=True, slots=True)
class Heard:
    """An answer.  doubts: how often it was asked for in vain before, and whether cortend was killed around it."""

    doubts: int
    era: int
    stdout: str = ""
    answer: Any = None


class Line:
    """Both clients; Untrue when an answer is wrong and cortend was not killed meanwhile."""

    def __init__(self, engine: CortenEngine, eras: Eras) -> None:
        self.engine = engine
        self.eras = eras
        self._api = Api(engine.socket)

    def docker(
        self, *words: str, already: str = "", codes: tuple[int, ...] = (0,), between: Callable[[], object] | None = None
    ) -> Heard:
        """The docker CLI.

        `already`: what it says of something that an attempt in vain has done; `between`: called before each repeat.
        """
        for attempt in range(ATTEMPTS):
            era = self.eras.when_up()
            if attempt and between is not None:
                between()
            done = self.engine.docker(*words, timeout=CLIENT_SECONDS)
            is_done = attempt and already and re.search(already, done.stderr, re.IGNORECASE)
            if done.returncode in codes or is_done:
                return Heard(attempt + (self.eras.number != era), era, done.stdout)
            if self.eras.number == era:
                raise Untrue(f"docker {' '.join(words)}: {done.returncode}, not {codes}: {_text(done)}")
        raise Untrue(f"docker {' '.join(words)}: never heard")

    def api(self, method: str, target: str, body: Json | None = None, *, already: tuple[int, ...] = ()) -> Heard:
        """The API.  `already`: statuses as above."""
        for attempt in range(ATTEMPTS):
            era = self.eras.when_up()
            try:
                status, answer = self._api.call(method, target, body, timeout=CLIENT_SECONDS)
            except UNHEARD as error:
                status, answer = 0, error
            if 0 < status < 400 or (attempt and status in already):
                return Heard(attempt + (self.eras.number != era), era, answer=answer)
            if self.eras.number == era:
                raise Untrue(f"{method} {target}: {status}: {answer!r}")
        raise Untrue(f"{method} {target}: never heard")

    def look(self, name: str) -> Json | None:
        """What inspect shows; None when there is none."""
        for _ in range(ATTEMPTS):
            era = self.eras.when_up()
            try:
                status, answer = self._api.call("GET", f"/containers/{name}/json", timeout=CLIENT_SECONDS)
            except UNHEARD as error:
                status, answer = 0, error
            if status == 200:
                found: Json = answer
                return found
            if status == 404:
                return None
            if self.eras.number == era:
                raise Untrue(f"inspect {name}: {status}: {answer!r}")
        raise Untrue(f"inspect {name}: never heard")

    def status(self, name: str) -> str:
        """`State.Status`, or `absent`."""
        found = self.look(name)
        return "absent" if found is None else str(found["State"]["Status"])


def _text(done: subprocess.CompletedProcess[str]) -> str:
    return f"{done.stdout[-300:]!r} {done.stderr[-600:]!r}"
