"""Finding containers, and waiting for them."""

from __future__ import annotations

import asyncio
import gc

import pytest

from corten.engine.container import Container, Roster
from corten.engine.record import Record, Status
from corten.errors import Conflict, InvalidArgument, NotFound

from .conftest import Decide


def make(decide: Decide, id: str, name: str) -> Container:
    record = Record(id=id, name=name, image_id="i", image_ref="i", created_ns=1, effective=decide())
    return Container(record, asyncio.get_running_loop())


async def test_containers_are_found_by_id_name_and_unique_prefix(decide: Decide) -> None:
    roster = Roster()
    for id, name in (("ab" + "0" * 62, "one"), ("ac" + "0" * 62, "two"), ("b" + "0" * 63, "ab")):
        roster.reserve_name(name, id)
        roster.add(make(decide, id, name))
    assert roster.find("/one").name == "one"
    assert roster.find("ac").name == "two"
    assert roster.find("ab").name == "ab"  # a name beats a prefix
    with pytest.raises(InvalidArgument, match=r"^multiple IDs found with provided prefix: a$"):
        roster.find("a")
    with pytest.raises(NotFound, match=r"^No such container: zz$"):
        roster.find("zz")


async def test_a_taken_name_is_refused_in_dockers_words(decide: Decide) -> None:
    roster = Roster()
    roster.reserve_name("web", "f" * 64)
    with pytest.raises(Conflict) as caught:
        roster.reserve_name("web", "e" * 64)
    assert caught.value.text == (
        f'Conflict. The container name "/web" is already in use by container "{"f" * 64}". You have to remove '
        "(or rename) that container to be able to reuse that name."
    )
    roster.release_name("web", "e" * 64)  # not its owner
    assert roster.is_taken("web")
    roster.release_name("web", "f" * 64)
    assert not roster.is_taken("web")


async def test_waiting_for_a_stopped_container_ends_at_once_but_for_its_next_exit(decide: Decide) -> None:
    container = make(decide, "a" * 64, "web")
    container.record = container.record.with_state(status=Status.EXITED, exit_code=3)
    assert await container.wait("not-running").result() == {"StatusCode": 3}
    waiter = container.wait("next-exit")
    container.record = container.record.with_state(exit_code=4)
    container.resolve_waiters("next-exit")
    assert await waiter.result() == {"StatusCode": 4}


async def test_a_failed_start_tells_its_error_to_who_waits(decide: Decide) -> None:
    container = make(decide, "a" * 64, "web")
    container.record = container.record.with_state(exit_code=127, error="nope")
    assert await container.wait("not-running").result() == {"StatusCode": 127, "Error": {"Message": "nope"}}


async def test_waits_of_clients_that_went_away_are_forgotten(decide: Decide) -> None:
    container = make(decide, "a" * 64, "x")
    container.record = container.record.with_state(status=Status.RUNNING)
    kept = container.wait("next-exit")
    for condition in ("not-running", "next-exit", "removed"):
        task = asyncio.ensure_future(container.wait(condition).result())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        del task
    gc.collect()
    assert [len(waits) for waits in container._waiters.values()] == [0, 1, 0]
    container.resolve_waiters("next-exit")
    assert (await kept.result())["StatusCode"] == 0
