"""Verbs whose container ends meanwhile: each answers as dockerd does.

The shim knows of the end before the engine: what it answers, and when, each test says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from corten.core.asker import Asker
from corten.engine import lifecycle
from corten.engine.deciding import Decider
from corten.engine.engine import Engine
from corten.engine.policies import Function
from corten.engine.record import Status
from corten.errors import (
    Conflict,
    CortenError,
    FailedPrecondition,
    Internal,
    Unavailable,
)
from corten.spec.docker import ContainerUpdateRequest, ExecConfig, RestartPolicy
from corten.spec.docker_parse import parse_create

from .conftest import ID, Decide
from .lifestage import Stage

NOT_RUNNING = f"container {ID} is not running"
OVER = FailedPrecondition("container is stopped")


@pytest.fixture
async def stage(decide: Decide, machine: Any, tmp_path: Any) -> Stage:
    return Stage(decide, machine, tmp_path)


@pytest.fixture
async def transient(decide: Decide, machine: Any, tmp_path: Any) -> Stage:
    """Of a --rm container."""
    return Stage(decide, machine, tmp_path, AutoRemove=True)


@pytest.mark.parametrize(
    "error", [OVER, Internal("task cannot become running: it is stopped"), Unavailable("x is gone")]
)
async def test_a_kill_of_a_paused_container_that_dies_before_it_is_thawed_is_done(
    stage: Stage, error: CortenError
) -> None:
    stage.container.record = stage.container.record.with_state(status=Status.PAUSED)
    stage.shim.fails["resume"] = error
    kill = asyncio.ensure_future(stage.life.kill("n"))
    while "resume" not in stage.shim.ops:
        await asyncio.sleep(0)
    await stage.end_in_turn()
    await asyncio.wait_for(kill, 30)
    assert stage.told == ["kill"]


def engine_of(stage: Stage) -> Any:
    """The engine's own verbs, of which these two need no more."""
    return SimpleNamespace(_life=stage.life, _parts=stage.parts)


async def exec_start(stage: Stage) -> None:
    (stage.directory / "config.json").write_text('{"process": {}}')
    ident = (await stage.execs.create("n", ExecConfig(cmd=["true"])))["Id"]
    stage.execs._process = _no_process
    await stage.execs.start(ident, True, None, None)


async def _no_process(*_: object) -> dict[str, Any]:
    return {}


async def exec_resize(stage: Stage) -> None:
    ident = (await stage.execs.create("n", ExecConfig(cmd=["true"])))["Id"]
    stage.execs.find(ident).state = type(stage.execs.find(ident).state).RUNNING
    await stage.execs.resize(ident, 1, 2)


VERBS: dict[str, tuple[str, Callable[[Stage], Awaitable[Any]]]] = {
    "pause": ("pause", lambda stage: stage.life.pause("n")),
    "unpause": ("resume", lambda stage: stage.life.unpause("n")),
    "resize": ("resize", lambda stage: Engine.container_resize(engine_of(stage), "n", 1, 2)),
    "top": ("pids", lambda stage: Engine.container_top(engine_of(stage), "n", "")),
    "exec start": ("exec_start", exec_start),
    "exec resize": ("resize", exec_resize),
}


@pytest.mark.parametrize("is_recorded", [False, True])
@pytest.mark.parametrize("verb", list(VERBS))
async def test_a_verb_whose_container_has_ended_says_so(stage: Stage, verb: str, is_recorded: bool) -> None:
    op, ask = VERBS[verb]
    if verb == "unpause":
        stage.container.record = stage.container.record.with_state(status=Status.PAUSED)

    async def recorded() -> None:
        stage.end()

    stage.shim.fails[op] = Unavailable("shim is gone") if is_recorded else OVER
    if is_recorded:
        stage.shim.meanwhile[op] = recorded
    with pytest.raises(Conflict, match=f"^{NOT_RUNNING}$"):
        await ask(stage)
    assert not [action for action in stage.told if not action.startswith("exec_")]


@pytest.mark.parametrize("verb", list(VERBS))
async def test_a_verb_whose_shim_hangs_says_that(stage: Stage, verb: str) -> None:
    op, ask = VERBS[verb]
    if verb == "unpause":
        stage.container.record = stage.container.record.with_state(status=Status.PAUSED)
    stage.shim.fails[op] = Unavailable("shim does not answer")
    with pytest.raises(CortenError, match="shim does not answer"):
        await ask(stage)


async def test_an_exec_that_meets_a_pause_is_refused_as_before_it(stage: Stage) -> None:
    stage.shim.fails["exec_start"] = FailedPrecondition("container is paused")
    with pytest.raises(Conflict, match=f"^Container {ID} is paused, unpause the container before exec$"):
        await exec_start(stage)


async def test_an_exec_whose_client_leaves_before_it_was_asked_for_is_over(stage: Stage) -> None:
    ident = (await stage.execs.create("n", ExecConfig(cmd=["true"])))["Id"]

    async def never(*_: object) -> dict[str, Any]:
        await asyncio.get_running_loop().create_future()
        return {}

    stage.execs._process = never
    start = asyncio.ensure_future(stage.execs.start(ident, True, None, None))
    await asyncio.sleep(0)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert (await stage.execs.inspect(ident))["Running"] is False
    assert stage.container.exec_ids == []


async def test_an_update_of_a_container_that_has_ended_is_for_its_next_run(stage: Stage) -> None:
    stage.shim.fails["update"] = OVER
    request = ContainerUpdateRequest(cpu_shares=77, restart_policy=RestartPolicy(name="always"))
    assert await stage.life.update("n", request) == {"Warnings": None}
    host = stage.container.record.effective.host
    assert (host.cpu_shares, host.restart_policy.name) == (77, "always")


async def test_a_signal_whose_container_ends_before_its_turn_was_not_sent(stage: Stage) -> None:
    shim = stage.shim
    ended, killed = await stage.queued(stage.end_in_turn(), stage.life.kill("n", "TERM"))
    assert ended is None
    assert isinstance(killed, Conflict)
    assert str(killed) == NOT_RUNNING
    assert shim.sent == []


@pytest.mark.parametrize("verb", ["stop", "kill", "remove"])
async def test_a_verb_that_ends_a_container_which_ends_and_goes_before_its_turn_is_done(
    transient: Stage, verb: str
) -> None:
    verbs = {
        "stop": lambda: transient.life.stop("n"),
        "kill": lambda: transient.life.kill("n"),
        "remove": lambda: transient.removal.remove("n", True, False, False),
    }
    assert await transient.queued(transient.end_in_turn(), verbs[verb]()) == [None, None]
    assert len(transient.roster) == 0


async def test_a_signal_goes_to_no_number_when_shim_and_init_are_dead(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    monkeypatch.setattr(lifecycle, "_signal_init", lambda container, number: sent.append(number))
    stage.shim.fails["kill"] = Unavailable("shim is gone")
    stage.shim.is_open = False
    await stage.life.kill("n", "TERM")
    assert sent == []
    stage.shim.is_open = True  # it hangs: nobody else can have reaped the init
    await stage.life.kill("n", "TERM")
    assert sent == [15]


async def test_a_wait_for_a_container_that_its_policy_is_starting_waits(stage: Stage) -> None:
    stage.end(Status.RESTARTING)  # and its timer has run down
    waiter = stage.container.wait("not-running")
    waiting = asyncio.ensure_future(waiter.result())
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    stage.end()
    assert (await asyncio.wait_for(waiting, 30))["StatusCode"] == 0


async def test_a_transient_container_whose_restart_is_given_up_goes(transient: Stage) -> None:
    """One whose health check restarts it."""
    transient.container.keepers += 1
    transient.end(Status.RESTARTING)
    transient.container.keepers -= 1
    await transient.life.stop("n")
    assert len(transient.roster) == 0


@pytest.mark.parametrize("stop_timeout", [-1, 10**6])
async def test_a_policy_ends_a_run_whatever_its_client_said_of_its_stop(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, stop_timeout: int
) -> None:
    monkeypatch.setattr(lifecycle, "_LONGEST_STOP_S", 0.01)
    effective = stage.container.record.effective
    config = replace(effective.config, stop_timeout=stop_timeout)
    stage.container.record = replace(stage.container.record, effective=replace(effective, config=config))
    stage.deadly = (9,)
    shim = stage.shim
    await asyncio.wait_for(stage.life.end(stage.container, Asker(by="policy /p.py:f")), 30)
    assert shim.sent == [15, 9]


class Loaded:
    """Policies in whose first answer others take their place, as in a reload."""

    def __init__(self, stage: Stage, file: str, count: int, after: Loaded | None = None) -> None:
        self.functions = tuple(Function(n, file, f"f{n}", 1) for n in range(count))
        self.asked: list[str] = [] if after is None else after.asked
        self._stage = stage
        self._after = after

    async def ask(self, function: Function, view: Any) -> dict[str, Any]:
        assert function in self.functions
        self.asked.append(f"{function.file}:{function.name}")
        self._stage.parts.policies = self._after or self
        return {}


async def test_a_reload_in_an_update_leaves_it_to_those_who_were_asked_first(stage: Stage) -> None:
    new = Loaded(stage, "/new.py", 1)
    stage.parts.policies = Loaded(stage, "/old.py", 2, new)
    await stage.life.update("n", ContainerUpdateRequest(cpu_shares=9))
    assert new.asked == ["/old.py:f0", "/old.py:f1"]


async def test_a_reload_in_a_create_has_the_new_ones_asked_as_well(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = Loaded(stage, "/new.py", 1)
    stage.parts.policies = Loaded(stage, "/old.py", 2, new)
    decider, effective = Decider(stage.parts), stage.container.record.effective
    monkeypatch.setattr(decider, "_now", lambda wanted: (SimpleNamespace(id="i"), effective, []))
    request = parse_create(b'{"Image": "i"}')
    await decider.decide(request, ID, "", name="n")
    assert new.asked == ["/old.py:f0", "/old.py:f1", "/new.py:f0"]
