"""Verbs of two clients, and verbs of one while the container ends: each answers as dockerd does, and nothing is lost.

A shim of these tests knows of the end before the engine: what it answers, and when, each test says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from corten.engine import lifecycle
from corten.engine.container import EXIT_CONDITIONS, Container, Roster
from corten.engine.engine import Engine
from corten.engine.execs import Execs
from corten.engine.finish import Finisher
from corten.engine.lifecycle import Lifecycle
from corten.engine.policies import Policies
from corten.engine.record import Move, Record, State, Status, advance
from corten.engine.removal import Removal
from corten.engine.tasks import Task
from corten.errors import (
    Conflict,
    CortenError,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    NotModified,
    Unavailable,
)
from corten.spec.docker import ContainerUpdateRequest, ExecConfig, RestartPolicy

from .conftest import ID, Decide

NOT_RUNNING = f"container {ID} is not running"
OVER = FailedPrecondition("container is stopped")


class Shim:
    """Does what `fails` and `meanwhile` say, by op; `sent` has the signals."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.is_open = True
        self.directory = str(stage.directory)
        self.fails: dict[str, CortenError] = {}
        self.meanwhile: dict[str, Callable[[], Awaitable[None]]] = {}
        self.ops: list[str] = []
        self.sent: list[int] = []

    async def _op(self, name: str) -> None:
        self.ops.append(name)
        if name in self.meanwhile:
            await self.meanwhile[name]()
        if name in self.fails:
            raise self.fails[name]

    async def kill(self, signum: int, *, by: Any) -> None:
        self.sent.append(signum)
        await self._op("kill")
        if signum in self.stage.deadly and self.is_open:
            self.is_open = False
            self.stage.ends.append(asyncio.ensure_future(self.stage.end_in_turn()))

    async def pause(self) -> None:
        await self._op("pause")

    async def resume(self) -> None:
        await self._op("resume")

    async def update(self, resources: Any) -> None:
        await self._op("update")

    async def resize(self, rows: int, cols: int, exec_id: str = "") -> None:
        await self._op("resize")

    async def pids(self) -> list[int]:
        await self._op("pids")
        return []

    async def exec_start(self, exec_id: str, process: Any, **more: Any) -> dict[str, Any]:
        await self._op("exec_start")
        return {"pid": 7}


class Stage:
    """One running container, and an engine's verbs around it."""

    def __init__(self, decide: Decide, machine: Any, directory: Any, **host: Any) -> None:
        loop = asyncio.get_running_loop()
        self.directory = directory
        self.roster = Roster()
        self.told: list[str] = []
        self.starts = 0
        self.deadly: tuple[int, ...] = ()  # signals that end the run, in the turn of the lock
        self.ends: list[asyncio.Future[None]] = []
        self.parts: Any = SimpleNamespace(
            roster=self.roster,
            machine=machine,
            policies=Policies(),
            loop=loop,
            save=self._save,
            note=self._save,
            bus=SimpleNamespace(publish=lambda event: self.told.append(event.action)),
            tasks=SimpleNamespace(kill=self._kill_cgroup, kill_shim=lambda task: None),
            run_later=loop.create_task,
        )
        finisher = Finisher(self.parts, SimpleNamespace())  # type: ignore[arg-type]
        self.removal = Removal(self.parts, SimpleNamespace())  # type: ignore[arg-type]
        self.removal.remove_now = self._remove_now  # type: ignore[method-assign]
        finisher.remove = self.removal.remove_soon
        starter: Any = SimpleNamespace(start=self._start)
        watch: Any = SimpleNamespace(unresponsive=lambda container: None)
        self.life = Lifecycle(self.parts, starter, finisher, self.removal, watch)  # type: ignore[arg-type]
        self.removal.kill_to_end = self.life.kill_to_end
        self.execs: Any = Execs(self.parts)  # type: ignore[arg-type]
        record = Record(
            id=ID, name="n", image_id="i", image_ref="i", created_ns=1, effective=decide(HostConfig=host or {})
        )
        self.container = Container(record, loop)
        self.roster.reserve_name("n", ID)
        self.roster.add(self.container)
        self._begin()

    @property
    def shim(self) -> Any:
        """Of the run that is."""
        assert self.container.task is not None
        return self.container.task.shim

    @property
    def status(self) -> Status:
        return self.container.record.state.status

    def _begin(self) -> None:
        container = self.container
        status = advance(container.record.state.status, Move.START)
        container.record = container.record.with_state(status=status, pid=2**22 + 1)
        container.task = Task(ID, str(self.directory), "/c", 1)
        shim: Any = Shim(self)
        container.task.shim = shim
        self.starts += 1

    async def _start(self, container: Container) -> None:
        self._begin()

    def _save(self, container: Container, record: Record) -> None:
        if container.id not in self.roster:
            raise NotFound(f"No such container: {container.id}")
        container.record = record

    async def _kill_cgroup(self, task: Task) -> None:
        self.told.append("cgroup killed")

    def _remove_now(self, container: Container, *, volumes: bool = False) -> None:
        if container.id in self.roster:
            status = advance(container.record.state.status, Move.REMOVE)
            container.record = container.record.with_state(status=status)
            self.roster.discard(container)

    def end(self, to: Status = Status.EXITED) -> None:
        """The exit is recorded; whoever has the lock lets it be."""
        container = self.container
        container.task = None
        container.record = container.record.with_state(status=to)
        container.resolve_waiters(*EXIT_CONDITIONS)
        if container.record.effective.host.auto_remove:
            self.removal.remove_soon(container)

    async def end_in_turn(self, to: Status = Status.EXITED) -> None:
        """The same, in the turn of the lock."""
        async with self.container.lock:
            self.end(to)

    async def queued(self, *verbs: Awaitable[Any]) -> list[Any]:
        """All of them wait for the lock, which they get in this order; what each returns or raises."""
        async with self.container.lock:
            tasks = []
            for verb in verbs:
                tasks.append(asyncio.ensure_future(verb))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
        return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)


@pytest.fixture
async def stage(decide: Decide, machine: Any, tmp_path: Any) -> Stage:
    return Stage(decide, machine, tmp_path)


@pytest.fixture
async def transient(decide: Decide, machine: Any, tmp_path: Any) -> Stage:
    """Of a --rm container."""
    return Stage(decide, machine, tmp_path, AutoRemove=True)


# The container ends under the verb


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


# Two clients


async def test_a_stop_that_comes_after_anothers_restart_stops_the_new_run(stage: Stage) -> None:
    async def restarted() -> None:
        async with stage.container.lock:
            stage.end()
            stage._begin()

    async def stop() -> None:
        await stage.life.stop("n")

    async with stage.container.lock:
        restart = asyncio.ensure_future(restarted())
        await asyncio.sleep(0)
        stopping = asyncio.ensure_future(stop())
        await asyncio.sleep(0)
    await restart
    while not stage.shim.sent:
        await asyncio.sleep(0)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not stopping.done()
    assert stage.shim.sent == [15]
    await stage.end_in_turn()
    await asyncio.wait_for(stopping, 30)
    assert stage.status is Status.EXITED


async def test_a_stop_whose_time_is_over_kills_nothing_that_another_client_has_started(stage: Stage) -> None:
    async def started() -> None:
        async with stage.container.lock:
            stage.container.task = None
            stage.container.record = stage.container.record.with_state(status=Status.EXITED)
            stage._begin()

    run = stage.container.task
    await started()
    await stage.life.kill_to_end(stage.container, run)
    assert stage.shim.sent == []
    assert not stage.container.is_stopping


async def test_a_start_of_what_another_client_is_stopping_changes_nothing(stage: Stage) -> None:
    stopping = asyncio.ensure_future(stage.life.stop("n"))
    while not stage.shim.sent:
        await asyncio.sleep(0)
    with pytest.raises(NotModified):
        await stage.life.start("n")
    assert stage.container.is_stopping
    assert stage.container.record.state.stopped_by_user
    await stage.end_in_turn()
    await asyncio.wait_for(stopping, 30)


async def test_a_start_of_what_runs_forgets_no_restarts(stage: Stage) -> None:
    stage.container.record = stage.container.record.with_state(restart_count=3)
    stage.container.backoff.next_delay(0)
    with pytest.raises(NotModified):
        await stage.life.start("n")
    assert stage.container.record.state.restart_count == 3
    assert stage.container.backoff.next_delay(0) == 0.2


@pytest.mark.parametrize("kind", ["stage", "transient"])
async def test_two_restarts_at_once_are_both_done_and_the_container_stays(
    kind: str, request: pytest.FixtureRequest, decide: Decide, machine: Any, tmp_path: Any
) -> None:
    stage = Stage(decide, machine, tmp_path, AutoRemove=kind == "transient")
    stage.deadly = (15,)
    both = asyncio.gather(stage.life.restart("n"), stage.life.restart("n"))
    assert [*await asyncio.wait_for(both, 30)] == [None, None]
    assert stage.starts == 2
    assert stage.container.id in stage.roster
    assert stage.status is Status.RUNNING
    assert stage.container.keepers == 0


async def test_a_forced_removal_beside_a_restart_of_a_transient_container_removes_it(transient: Stage) -> None:
    transient.deadly = (9,)
    restart = asyncio.ensure_future(transient.life.restart("n"))
    while not transient.shim.sent:
        await asyncio.sleep(0)
    removal = asyncio.ensure_future(transient.removal.remove("n", True, False, False))
    assert [*await asyncio.wait_for(asyncio.gather(restart, removal), 30)] == [None, None]
    assert transient.starts == 2  # the restart came first, and what it started was killed
    assert len(transient.roster) == 0


async def test_a_list_with_sizes_leaves_out_what_is_removed_while_it_is_measured(stage: Stage) -> None:
    def usage(container_id: str) -> None:
        raise FileNotFoundError(2, "No such file or directory", "/snapshots/1/fs")  # renamed into the trash

    stage.parts.snapshots = SimpleNamespace(usage=usage)
    stage.parts.networks = SimpleNamespace(ids={})
    engine: Any = SimpleNamespace(
        _parts=stage.parts,
        _list_query=lambda _, filters: SimpleNamespace(among=lambda rows: rows),
        _image_name=lambda ref, image_id: ref,
    )
    engine._sizes = lambda container: Engine._sizes(engine, container)
    assert await Engine.container_list(engine, True, 0, True, {}) == []
    assert len(await Engine.container_list(engine, True, 0, False, {})) == 1
    with pytest.raises(NotFound, match=f"^No such container: {ID}$"):
        await engine._sizes(stage.container)


@pytest.mark.parametrize("error", [NotFound("snapshot is gone"), FileNotFoundError(2, "No such file or directory")])
async def test_a_prune_goes_on_past_what_is_removed_while_it_is_measured(stage: Stage, error: Exception) -> None:
    def usage(container_id: str) -> None:
        raise error

    stage.end()
    stage.parts.snapshots = SimpleNamespace(usage=usage)
    stage.parts.sync = lambda: None
    assert await stage.removal.prune({}) == {"ContainersDeleted": None, "SpaceReclaimed": 0}
    assert stage.told == ["prune"]


async def test_two_renames_at_once_leave_one_name(stage: Stage) -> None:
    assert await stage.queued(stage.life.rename("n", "first"), stage.life.rename("n", "second")) == [None, None]
    assert stage.container.name == "second"
    assert [stage.roster.is_taken(name) for name in ("n", "first", "second")] == [False, False, True]


async def test_two_renames_to_one_name_are_one(stage: Stage) -> None:
    first, second = await stage.queued(stage.life.rename("n", "new"), stage.life.rename("n", "new"))
    assert first is None
    assert isinstance(second, InvalidArgument)
    assert stage.roster.is_taken("new")


async def test_a_rename_beside_a_removal_leaves_no_name(stage: Stage) -> None:
    stage.end()
    stage.container.record = replace(stage.container.record, state=State(status=Status.EXITED))
    removed, renamed = await stage.queued(stage.removal.remove("n", False, False, False), stage.life.rename("n", "new"))
    assert removed is None
    assert isinstance(renamed, NotFound)
    assert not stage.roster.is_taken("n")
    assert not stage.roster.is_taken("new")


async def test_a_start_beside_a_removal_is_refused(stage: Stage) -> None:
    stage.end()
    removed, started = await stage.queued(stage.removal.remove("n", False, False, False), stage.life.start("n"))
    assert removed is None
    assert isinstance(started, Conflict)
    assert str(started) == "container is marked for removal and cannot be started"
