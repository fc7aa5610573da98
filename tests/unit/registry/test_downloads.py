"""Downloads of one blob that follow each other, with a registry in memory."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

from corten.core.content import ContentStore
from corten.registry.downloads import Downloads
from corten.registry.errors import RegistryError
from corten.spec.image import OCI_LAYER, Descriptor, digest_of

DATA = random.Random(4).randbytes(100_000)
BLOB = Descriptor(OCI_LAYER, digest_of(DATA), len(DATA))
SOURCE = "reg.example"

Fetch = Callable[[int, Callable[[float], None]], AbstractContextManager[Iterator[bytes]]]


def sending(pieces: Callable[[int], Iterator[bytes]]) -> Fetch:
    @contextmanager
    def fetch(offset: int, on_retry: Callable[[float], None]) -> Iterator[Iterator[bytes]]:
        yield pieces(offset)

    return fetch


def refusing(offset: int) -> Iterator[bytes]:
    yield from ()
    raise RegistryError("not now")


def lying(offset: int) -> Iterator[bytes]:
    yield bytes(len(DATA) - offset)


@pytest.mark.parametrize("failing", [refusing, lying])
def test_a_try_that_failed_takes_no_file_from_the_next_one(
    failing: Callable[[int], Iterator[bytes]], tmp_path: Path
) -> None:
    downloads, go_on = Downloads(ContentStore(str(tmp_path))), threading.Event()

    def honest(offset: int) -> Iterator[bytes]:
        assert go_on.wait(30)
        yield DATA[offset:]

    with ExitStack() as second:
        with downloads.joined(SOURCE, BLOB, sending(failing), lambda *_: None) as failed:
            assert failed is not None
            with pytest.raises(Exception, match=r"not now|verification failed"):
                failed.wait()
            failed.spoil()
            partial = second.enter_context(downloads.joined(SOURCE, BLOB, sending(honest), lambda *_: None))
            assert partial is not None
        go_on.set()
        partial.wait()
        assert Path(partial.path).read_bytes() == DATA
