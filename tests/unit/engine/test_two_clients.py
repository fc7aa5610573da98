"""Verbs of two clients at once on one container: nothing of either is lost."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from corten.engine.engine import Engine
from corten.engine.record import State, Status
from corten.errors import (
    Conflict,
    InvalidArgument,
    NotFound,
    NotModified,
)

from .conftest import ID, Decide
from .lifestage import Stage


@pytest.fixture
async def stage(decide: Decide, machine: Any, tmp_path: Any) -> Stage:
    return Stage(decide, machine, tmp_path)


@pytest.fixture
async def transient(decide: Decide, machine: Any, tmp_path: Any) -> Stage:
    """Of a --rm container."""
    return Stage(decide, machine, tmp_path, AutoRemove=True)


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
