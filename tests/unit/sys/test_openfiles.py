"""The limit of open files, which an engine takes and gives back to its children."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from corten.sys import openfiles


@pytest.fixture(autouse=True)
def limits() -> Iterator[tuple[int, int]]:
    """Of this process, before and after."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_all_is_taken_and_what_was_before_is_given_back(limits: tuple[int, int]) -> None:
    soft, hard = limits
    less = soft - 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (less, hard))
    assert openfiles.take_all() == less
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    openfiles.give_back(less)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (less, hard)


def test_a_hard_limit_that_the_kernel_takes_no_more_leaves_the_soft_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert openfiles.take_all() == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    monkeypatch.undo()
