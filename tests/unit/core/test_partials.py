"""Files that are read while they grow."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from corten.core.limits import Limits
from corten.core.partials import Partials
from corten.errors import InvalidArgument, Unavailable
from support import tarballs as t

DATA = bytes(range(256)) * 4000
DIGEST = t.digest(DATA)


@pytest.fixture
def partials(tmp_path: Path) -> Partials:
    return Partials(str(tmp_path), "boot")


def test_a_blob_is_read_while_it_grows(partials: Partials) -> None:
    partial = partials.open(DIGEST, len(DATA), "r")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.extend(partial.chunks()))
    reader.start()
    for at in range(0, len(DATA), 1000):
        partial.write(DATA[at : at + 1000])
    assert reader.is_alive()  # the end comes when all was verified
    partial.verify()
    reader.join(60)
    assert b"".join(read) == DATA
    partial.close()


def test_what_an_earlier_attempt_left_is_taken_up(partials: Partials) -> None:
    first = partials.open(DIGEST, len(DATA), "r")
    first.write(DATA[:70_000])
    first.close()
    second = partials.open(DIGEST, len(DATA), "r")
    second.restore()
    assert second.have == 70_000
    second.write(DATA[70_000:])
    second.verify()
    assert b"".join(second.chunks()) == DATA
    second.close()


def test_a_file_that_is_longer_than_the_blob_is_begun_anew(partials: Partials) -> None:
    first = partials.open(DIGEST, 10, "r")
    with open(first.path, "ab") as file:
        file.write(DATA)
    first.close()
    second = partials.open(DIGEST, 10, "r")
    second.restore()
    assert second.have == 0
    second.close()


def test_each_source_and_size_has_a_file_of_its_own(partials: Partials) -> None:
    for source, size in (("liar", len(DATA)), ("honest", 9)):
        partial = partials.open(DIGEST, size, source)
        partial.write(b"nonsense")
        partial.close()
    partial = partials.open(DIGEST, len(DATA), "honest")
    partial.restore()
    assert partial.have == 0
    partial.close()
    assert partials.sizes() == {DIGEST: 16}


def test_other_bytes_than_promised_are_refused_and_do_not_stay(partials: Partials) -> None:
    partial = partials.open(DIGEST, len(DATA), "r")
    partial.write(bytes(len(DATA)))
    with pytest.raises(InvalidArgument, match=f"^filesystem layer verification failed for digest {DIGEST}$"):
        partial.verify()
    assert not partials.sizes()
    partial.close()


def test_more_bytes_than_promised_are_refused(partials: Partials) -> None:
    partial = partials.open(DIGEST, 10, "r")
    with pytest.raises(InvalidArgument, match="has more than the 10 bytes"):
        partial.write(DATA)
    partial.close()
    assert not partials.sizes()  # nothing came: nothing stays


def test_a_reader_raises_what_the_writer_failed_with(partials: Partials) -> None:
    partial = partials.open(DIGEST, len(DATA), "r")
    partial.write(DATA[:10])
    partial.fail(Unavailable("line cut"))
    with pytest.raises(Unavailable, match="line cut"):
        list(partial.chunks())
    partial.close()


def test_a_reader_that_waits_can_be_called_away(partials: Partials) -> None:
    partial = partials.open(DIGEST, len(DATA), "r")
    gone = threading.Event()

    def check() -> None:
        if gone.is_set():
            raise KeyError("gone")

    failed: list[BaseException] = []

    def read() -> None:
        try:
            partial.wait(check)
        except KeyError as error:
            failed.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    gone.set()
    while reader.is_alive():
        partial.wake()
        reader.join(0.01)
    assert failed
    partial.close()


def test_who_is_called_away_just_before_he_waits_does_not_wait(partials: Partials) -> None:
    partial = partials.open(DIGEST, len(DATA), "r")
    has_looked, gone, is_called = threading.Event(), threading.Event(), threading.Event()

    def check() -> None:
        if gone.is_set():
            raise KeyError("gone")
        has_looked.set()
        is_called.wait(0.2)  # he is called now, if that is possible

    def call() -> None:
        has_looked.wait()
        gone.set()
        partial.wake()
        is_called.set()

    failed: list[BaseException] = []

    def read() -> None:
        try:
            partial.wait(check)
        except KeyError as error:
            failed.append(error)

    threads = [threading.Thread(target=call), threading.Thread(target=read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    was_away = bool(failed)
    partial.wake()
    threads[1].join()
    assert was_away
    partial.close()


def test_a_disk_that_is_about_to_be_full_is_left_alone(partials: Partials) -> None:
    partial = partials.open(DIGEST, len(DATA), "r", Limits(disk_reserve=1 << 62))
    with pytest.raises(Unavailable, match="no space left for layers"):
        partial.write(DATA)
    partial.close()


def test_what_another_boot_left_is_gone(tmp_path: Path) -> None:
    before = Partials(str(tmp_path), "before")
    partial = before.open(DIGEST, len(DATA), "r")
    partial.write(DATA[:10])
    partial.close()
    assert Partials(str(tmp_path), "before").sizes() == {DIGEST: 10}
    assert not Partials(str(tmp_path), "after").sizes()
    assert os.listdir(tmp_path) == ["after"]


def test_what_is_old_goes_unless_it_is_used(partials: Partials, tmp_path: Path) -> None:
    for number in (1, 2):
        partial = partials.open(f"sha256:{number:064}", 10, "r")
        partial.write(b"12345")
        partial.close()
    assert partials.prune(older_than_s=3600) == 0
    assert partials.prune([f"sha256:{1:064}"]) == 5
    assert partials.sizes() == {f"sha256:{1:064}": 5}


def test_what_was_spoiled_goes_with_its_last_user(partials: Partials) -> None:
    partial = partials.open(DIGEST, len(DATA), "r")
    partial.write(DATA)
    partial.verify()
    partial.spoil()
    assert partials.sizes() == {DIGEST: len(DATA)}
    partial.close()
    assert partials.sizes() == {}
