"""The database: transactions, schema versions, durability."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3
import stat
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.core.dbroom import FREE_PAGES, LOG_PAGES, TRANSACTION_PAGES
from corten.core.metadata import Database
from corten.errors import FailedPrecondition, Unavailable


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(str(tmp_path / "corten.db"))
    yield opened
    opened.close()


def words(database: Database) -> list[str]:
    return [row[0] for row in database.query("SELECT value FROM meta WHERE key LIKE 'w%' ORDER BY key")]


def fail(database: Database, key: str) -> None:
    with database.transaction():
        database.set_meta(key, "lost")
        raise ZeroDivisionError


def test_the_database_is_private_and_has_a_schema_version(database: Database) -> None:
    assert stat.S_IMODE(os.stat(database.path).st_mode) == 0o600
    assert database.meta("schema:core") == "3"
    assert database.query("PRAGMA journal_mode") == [("wal",)]


def test_a_failed_transaction_leaves_nothing_and_an_inner_one_fails_alone(database: Database) -> None:
    with pytest.raises(ZeroDivisionError):
        fail(database, "w1")
    with database.transaction():
        database.set_meta("w2", "kept")
        with pytest.raises(ZeroDivisionError):
            fail(database, "w3")
        with database.transaction():
            database.set_meta("w4", "kept too")
    assert words(database) == ["kept", "kept too"]


def test_writers_in_threads_wait_for_each_other(database: Database) -> None:
    def count() -> None:
        for _ in range(50):
            with database.transaction():
                database.set_meta("w", str(int(database.meta("w") or 0) + 1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert database.meta("w") == "200"


def test_what_was_committed_is_seen_by_the_next_process(tmp_path: Path) -> None:
    path = str(tmp_path / "db")
    first = Database(path)
    with first.durable() as tx:
        tx.execute("INSERT INTO meta VALUES ('w', 'x')")
    copy = tmp_path / "copy"  # as after kill -9: the log is there, nobody closed it
    for suffix in ("", "-wal"):
        Path(f"{copy}{suffix}").write_bytes(Path(f"{path}{suffix}").read_bytes())
    first.close()
    second = Database(str(copy))
    assert second.meta("w") == "x"
    second.close()


def test_other_rooms_bring_their_tables_in_steps(tmp_path: Path, database: Database) -> None:
    steps = (("CREATE TABLE things (a TEXT) STRICT",), ("ALTER TABLE things ADD COLUMN b TEXT",))
    database.migrate("things", steps[:1])
    database.migrate("things", steps)
    database.migrate("things", steps)
    with database.transaction() as tx:
        tx.execute("INSERT INTO things VALUES ('1', '2')")
    with pytest.raises(FailedPrecondition, match="has things schema 2, this release knows 1"):
        database.migrate("things", steps[:1])


def test_a_step_that_fails_is_not_half_done(database: Database) -> None:
    with pytest.raises(sqlite3.OperationalError):
        database.migrate("bad", (("CREATE TABLE half (a TEXT) STRICT", "NONSENSE"),))
    assert database.meta("schema:bad") == ""
    assert database.query("SELECT name FROM sqlite_master WHERE name = 'half'") == []


@pytest.mark.parametrize("is_nested", [False, True])
def test_after_an_error_that_rolled_back_everything_nothing_is_committed(database: Database, is_nested: bool) -> None:
    """SQLite does so on its own (lang_transaction.html, 3.2), and somebody may have passed over the error."""

    def write() -> None:
        with database.transaction(), database.transaction() if is_nested else contextlib.nullcontext():
            database.set_meta("w1", "lost")
            database.query("ROLLBACK")
            with pytest.raises(Unavailable):
                database.set_meta("w2", "must not be committed alone")

    with pytest.raises(Unavailable, match="rolled back the whole transaction"):
        write()
    assert words(database) == []
    database.set_meta("w3", "the next one works")
    assert words(database) == ["the next one works"]


def test_damage_is_told_in_words_and_mistakes_of_ours_are_not(tmp_path: Path) -> None:
    path = str(tmp_path / "corten.db")
    first = Database(path)
    with first.transaction() as tx:
        tx.execute("CREATE TABLE things (a TEXT)")
    ((page, size),) = first.query(
        "SELECT rootpage, page_size FROM sqlite_schema, pragma_page_size WHERE name = 'things'"
    )
    first.close()
    with open(path, "r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    second = Database(path)
    with pytest.raises(Unavailable, match=r"^corten\.db: database disk image is malformed$"):
        second.query("SELECT * FROM things")
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        second.query("SELECT * FROM others")
    second.close()


def no_room(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_database_has_its_room_from_the_first_moment_and_keeps_it_when_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "corten.db"
    least = {"": 1 << 18, "-wal": (LOG_PAGES + TRANSACTION_PAGES) * 4096, "-shm": 1 << 15}
    for _ in range(2):
        opened = Database(str(path))
        for number in range(300):
            with opened.transaction():
                opened.set_meta("w", str(number))
        assert opened.query("PRAGMA freelist_count")[0][0] >= FREE_PAGES // 2
        opened.close()
        found = {suffix: os.stat(f"{path}{suffix}") for suffix in least}
        assert all(found[suffix].st_blocks * 512 >= least[suffix] for suffix in least)
        assert all(stat.S_IMODE(one.st_mode) == 0o600 for one in found.values())


def test_a_log_that_somebody_else_has_cut_gets_its_room_again(database: Database) -> None:
    whole = os.stat(f"{database.path}-wal").st_size
    with contextlib.closing(sqlite3.connect(database.path)) as other:
        assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    assert os.stat(f"{database.path}-wal").st_size == 0
    database.set_meta("w", "x")
    assert os.stat(f"{database.path}-wal").st_size == whole


def test_a_start_waits_for_who_opens_the_database_at_this_moment(tmp_path: Path) -> None:
    """SQLite has the first byte behind its locks of the -shm for itself meanwhile (os_unix.c, unixLockSharedMemory)."""
    path = tmp_path / "corten.db"
    Database(str(path)).close()
    waited = threading.Event()
    with open(f"{path}-shm", "r+b") as file:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 128, 1, 0))

        def end(_: float) -> None:
            waited.set()
            file.close()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("corten.core.dbroom.time.sleep", end)
            Database(str(path)).close()
    assert waited.is_set()


def test_an_older_copy_of_a_database_that_was_closed_gets_nothing_of_its_log(tmp_path: Path) -> None:
    path = tmp_path / "corten.db"
    first = Database(str(path))
    first.set_meta("w", "older")
    first.close()
    copy = path.read_bytes()
    second = Database(str(path))
    second.set_meta("w", "newer")
    second.close()
    path.write_bytes(copy)
    third = Database(str(path))
    assert words(third) == ["older"]
    assert third.query("PRAGMA integrity_check") == [("ok",)]
    third.close()


def test_pages_without_room_are_refused_before_they_are_committed_and_have_it_later(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = "x" * (FREE_PAGES * 4096 * 2)
    monkeypatch.setattr(os, "posix_fallocate", no_room)
    with pytest.raises(Unavailable, match=r"^corten\.db: database or disk is full$"):
        database.set_meta("w1", large)
    for number in range(100):  # where there are pages
        database.set_meta("w2", str(number))
    assert words(database) == ["99"]
    monkeypatch.undo()
    database.set_meta("w1", large)
    assert words(database) == [large, "99"]


def test_without_room_for_the_file_that_is_mapped_nothing_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "corten.db")
    monkeypatch.setattr(os, "pwrite", no_room)
    with pytest.raises(Unavailable, match=r"^corten\.db: database or disk is full$"):
        Database(path)
    monkeypatch.undo()
    Database(path).close()


def test_a_database_that_others_read_is_opened_and_closed_beside_them(tmp_path: Path) -> None:
    path = str(tmp_path / "corten.db")
    Database(path).close()
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM meta WHERE key LIKE 'w%'").fetchone() == (0,)
        for number in range(3):
            opened = Database(path)
            opened.set_meta(f"w{number}", "x")
            opened.close()
            assert reader.execute("SELECT count(*) FROM meta WHERE key LIKE 'w%'").fetchone() == (0,)
        reader.execute("COMMIT")
        assert reader.execute("SELECT count(*) FROM meta WHERE key LIKE 'w%'").fetchone() == (3,)
