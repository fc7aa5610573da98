"""A look that does not end stalls who asks for the same alone."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from corten.engine.looks import Looks, NoAnswer
from corten.errors import NotFound


class Reader:
    """A read that ends when it is told to."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.begun = 0

    def __call__(self) -> str:
        self.begun += 1
        self.may_end.wait(30)
        return "late"


@pytest.fixture
def slow() -> Iterator[Reader]:
    reader = Reader()
    yield reader
    reader.may_end.set()


async def served(looks: Looks, owner: str, work: Callable[[], str]) -> str:
    """What a look gives, as soon as the owner's thread is free and quick enough."""
    end = time.monotonic() + 60
    while True:
        try:
            return await looks.look("passwd of", owner, work)
        except NoAnswer:
            assert time.monotonic() < end, "never served again"
            await asyncio.sleep(0.01)


async def test_the_loop_goes_on_while_a_look_waits(slow: Reader) -> None:
    looks, turns = Looks(timeout_s=30), 0
    task = asyncio.ensure_future(looks.look("passwd of", "a", slow))
    while turns < 50:
        await asyncio.sleep(0.001)
        turns += 1
    assert not task.done()
    slow.may_end.set()
    assert await task == "late"


async def test_a_look_that_does_not_end_is_refused_by_name_and_again_at_once(slow: Reader) -> None:
    looks = Looks(timeout_s=0.1)
    text = r"^passwd of a: no answer within 0\.1 s: a file system in the way does not respond$"
    with pytest.raises(NoAnswer, match=text):
        await looks.look("passwd of", "a", slow)
    began = time.monotonic()
    for _ in range(100):
        with pytest.raises(NoAnswer, match=text):
            await looks.look("passwd of", "a", slow)
    assert time.monotonic() - began < 5  # with a wait for each it would be ten
    assert slow.begun == 1
    assert await served(looks, "b", lambda: "quick") == "quick"


async def test_the_subject_is_served_again_when_the_look_has_ended(slow: Reader) -> None:
    looks = Looks(timeout_s=0.1)
    with pytest.raises(NoAnswer):
        await looks.look("passwd of", "a", slow)
    slow.may_end.set()
    assert await served(looks, "a", lambda: "again") == "again"


async def test_many_looks_at_one_subject_take_turns(slow: Reader) -> None:
    looks = Looks(timeout_s=10)
    tasks = [asyncio.ensure_future(looks.look("passwd of", "a", slow)) for _ in range(50)]
    while not slow.begun:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.05)
    assert slow.begun == 1
    slow.may_end.set()
    assert await asyncio.gather(*tasks) == ["late"] * 50


async def test_errors_of_a_look_are_its_callers() -> None:
    def missing() -> None:
        raise NotFound("no such thing")

    looks = Looks()
    with pytest.raises(NotFound, match=r"^no such thing$"):
        await looks.look("passwd of", "a", missing)
    with pytest.raises(OSError, match="nonexistent"):
        await looks.look("passwd of", "a", lambda: open("/nonexistent", "rb"))  # noqa: SIM115  it does not open


async def test_subjects_that_do_not_answer_have_a_bound(slow: Reader) -> None:
    looks = Looks(timeout_s=0.05)
    tasks = [looks.look("passwd of", str(number), slow) for number in range(64)]
    assert all(isinstance(one, NoAnswer) for one in await asyncio.gather(*tasks, return_exceptions=True))
    with pytest.raises(NoAnswer, match=r"^passwd of x: 64 others do not answer already$"):
        await looks.look("passwd of", "x", slow)


async def test_a_client_that_goes_leaves_the_look_to_itself(slow: Reader) -> None:
    looks = Looks(timeout_s=10)
    task = asyncio.ensure_future(looks.look("passwd of", "a", slow))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    slow.may_end.set()
    assert await looks.look("passwd of", "a", lambda: "next") == "next"
