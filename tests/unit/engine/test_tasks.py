"""Tasks that must not wait for what else cortend does."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from corten.engine import tasks, threads
from corten.engine.tasks import Task, Tasks


class Cgroup:
    """Says when it was asked to kill."""

    def __init__(self) -> None:
        self.killed = threading.Event()

    def kill_all(self) -> None:
        self.killed.set()


@pytest.fixture
def killing(monkeypatch: pytest.MonkeyPatch) -> tuple[Tasks, Cgroup]:
    cgroup = Cgroup()
    monkeypatch.setattr(Tasks, "cgroup", lambda self, path: cgroup)
    other: Any = SimpleNamespace(entries=lambda kind: [])
    return Tasks(other, other, other, "/nowhere", cgroup_parent="/c"), cgroup


async def test_a_kill_waits_for_nobodys_work_in_the_pool(killing: tuple[Tasks, Cgroup]) -> None:
    made, cgroup = killing
    go_on = threading.Event()
    busy = [asyncio.ensure_future(asyncio.to_thread(go_on.wait, 30)) for _ in range(100)]
    await asyncio.sleep(0.05)
    try:
        await asyncio.wait_for(made.kill(Task("id", "/nowhere", "/c/id", 0)), 60)
        assert cgroup.killed.is_set()
    finally:
        go_on.set()
        await asyncio.gather(*busy)


async def test_a_kill_without_a_thread_to_be_had_goes_through_the_pool(
    killing: tuple[Tasks, Cgroup], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, cgroup = killing

    async def none(name: str, work: object) -> None:
        raise threads.NoThread("no thread")

    monkeypatch.setattr(tasks, "in_own_thread", none)
    await made.kill(Task("id", "/nowhere", "/c/id", 0))
    assert cgroup.killed.is_set()
