"""Any health check, of a request or an image: a container is made of it and its shim can wait for it, or one sentence.

What is made survives the record, is shown as JSON, and every time in it can be waited for.
"""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest

from corten.engine import defaults, effective, healthcheck
from corten.engine.effective import Effective
from corten.engine.host import Host
from corten.engine.settings import Runtime, Settings
from corten.errors import CortenError, InvalidArgument
from corten.shim import health
from corten.shim.loop import Loop
from corten.shim.protocol import encode
from corten.shim.request import Request
from corten.spec.docker import HealthConfig
from corten.spec.docker_json import to_json
from corten.spec.docker_parse import parse_create
from corten.spec.image import RunConfig, parse_config
from corten.spec.words import HEALTH_ACTION_LABEL
from support import summary
from support.oddconfigs import NUMBERS, ODD, TEXTS

ROUNDS = pytest.mark.parametrize(
    "rounds", [3000, pytest.param(200_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
ID = "5ba0fd821058cb18385a92df3042871275754eb848fe6d0d15df2310419c0531"
KINDS = ("CMD", "CMD-SHELL", "NONE", "cmd", "")
TIMES = ("Interval", "Timeout", "StartPeriod", "StartInterval")
FIELDS = ("Test", *TIMES, "Retries", "test", "INTERVAL", "Nonesuch")
GOOD_NS = (0, 10**6, 10**9, 30 * 10**9, (1 << 63) - 1)
MACHINE = Host(
    machine="x86_64",
    kernel=(6, 18),
    kernel_release="6.18.0",
    hostname="vm",
    cpu_count=2,
    cpus="0-1",
    mems="0",
    cgroup_mode="hybrid",
    v1_controllers=frozenset({"cpu", "memory", "pids"}),
    capabilities=frozenset(defaults.ALL_CAPABILITIES),
    memory_bytes=1 << 34,
)
SETTINGS = Settings(data_root="/data", exec_root="/exec", runtimes={"corten": Runtime("corten")})


class Checks:
    """Health checks as a seed says; most values are near right, so that many come through."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def check(self) -> Any:
        """The value of `Healthcheck`."""
        choose = self._random
        if choose.randrange(20) == 0:
            return choose.choice((*ODD, *NUMBERS, *TEXTS))
        return {name: self._value(name) for name in FIELDS if choose.randrange(3)}

    def _value(self, name: str) -> Any:
        choose = self._random
        if choose.randrange(12) == 0:
            return choose.choice((*ODD, *NUMBERS, *TEXTS))
        if name.lower() == "test":
            return [choose.choice(KINDS), *(choose.choice(TEXTS) for _ in range(choose.randrange(3)))]
        return choose.choice(GOOD_NS if choose.randrange(4) else NUMBERS)

    def body(self) -> dict[str, Any]:
        """What else of a request has to do with it."""
        choose = self._random
        more: dict[str, Any] = {"Image": "x", "Cmd": ["true"], "Healthcheck": self.check()}
        if choose.randrange(4) == 0:
            more["Labels"] = {HEALTH_ACTION_LABEL: choose.choice((*health.ACTIONS, *TEXTS))}
        for name, values in (("StopTimeout", NUMBERS), ("StopSignal", ("TERM", *TEXTS)), ("Shell", (["sh"], [], ""))):
            if choose.randrange(6) == 0:
                more[name] = choose.choice(values)
        return more


def document(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


def image_of(check: Any, stop_timeout: Any) -> RunConfig:
    """Raises InvalidArgument."""
    return parse_config(document({"config": {"Healthcheck": check, "StopTimeout": stop_timeout}})).run


def decided(body: bytes, image: RunConfig) -> Effective:
    """Raises CortenError."""
    made, _ = effective.decide(parse_create(body), image, SETTINGS, MACHINE, container_id=ID)
    return made


def waits(made: Effective) -> bool:
    """Whether something is checked: then every time of it can be waited for, and all of it told."""
    again = msgspec.json.decode(msgspec.json.encode(made), type=Effective)
    assert again == made
    json.dumps(to_json(made.config))
    if healthcheck.command(made.config) is None:
        return False
    wanted = healthcheck.settings(made.config, {"args": healthcheck.command(made.config)})
    told = json.loads(encode(wanted))
    settings = health.Settings(Request(told, []))
    loop = Loop()
    for name in ("interval_s", "timeout_s", "start_interval_s", "start_period_s"):
        loop.call_later(getattr(settings, name), lambda: None)
    loop.call_later(settings.stop_timeout_s, lambda: None)
    loop.turn(0)
    assert (loop._patience(None) or 0) * 1000 < 1 << 31  # what epoll can count
    assert healthcheck.go_duration((made.config.healthcheck or HealthConfig()).timeout)
    return True


@ROUNDS
def test_any_health_check_is_waited_for_or_refused(rounds: int) -> None:
    checks = Checks(20261123)
    said: list[str] = []
    counts = {"checked": 0, "not checked": 0, "refused": 0, "no image": 0}
    for turn in range(rounds):
        body, odd = checks.body(), checks.check()
        try:
            image = image_of(odd, body.get("StopTimeout"))
        except InvalidArgument as error:
            said.append(error.text)
            counts["no image"] += 1
            image = RunConfig()
        try:
            made = decided(document(body), image if turn % 2 else RunConfig())
        except CortenError as error:
            said.append(error.text)
            counts["refused"] += 1
            continue
        counts["checked" if waits(made) else "not checked"] += 1
    assert all(said)
    assert all(number > rounds / 100 for number in counts.values()), counts
    summary.add("fuzz of health checks", ", ".join(f"{number} {what}" for what, number in counts.items()))
