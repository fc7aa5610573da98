"""The log file: appending, rotation, mending."""

from __future__ import annotations

import errno
import gzip
import json
import os
import resource
import time
from pathlib import Path

import pytest

from corten.shim.jsonlog import RecordEncoder
from corten.shim.logfile import LogFile, complete, mend

MOMENT = 1_700_000_000_000_000_000
RECORD = rb'{"log":"a\n","stream":"stdout","time":"2023-11-14T22:13:20Z"}' + b"\n"


def test_records_are_appended_to_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(RECORD)
    log = LogFile(str(path))
    log.append(RECORD * 2)
    log.close()
    assert path.read_bytes() == RECORD * 3
    assert log.size == 3 * len(RECORD)


def test_a_new_file_is_readable_by_its_group_and_nobody_else(tmp_path: Path) -> None:
    path = tmp_path / "log"
    LogFile(str(path)).close()
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("batch", [1, 3, 10])
def test_a_full_file_is_rotated_before_the_next_record(tmp_path: Path, batch: int) -> None:
    path = tmp_path / "log"
    log = LogFile(str(path), max_size=2 * len(RECORD) - 5, max_files=3)
    for _ in range(30 // batch):
        log.append(RECORD * batch)
    log.close()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["log", "log.1", "log.2"]
    assert [(tmp_path / name).read_bytes() for name in ("log", "log.1", "log.2")] == [RECORD * 2] * 3


def test_one_file_alone_starts_again_when_it_is_full(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = LogFile(str(path), max_size=len(RECORD), max_files=1)
    log.append(RECORD * 5)
    log.close()
    assert [entry.name for entry in tmp_path.iterdir()] == ["log"]
    assert path.read_bytes() == RECORD


def test_a_rotation_that_fails_goes_on_in_the_old_file_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    log = LogFile(str(tmp_path / "log"), max_size=len(RECORD), max_files=2)

    def refuse(*args: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("corten.shim.logfile.os.open", refuse)
        log.append(RECORD * 3)
    assert (tmp_path / "log").read_bytes() == RECORD * 3
    assert capfd.readouterr().err.count("OSError: [Errno 24] Too many open files") == 2
    log.append(RECORD)
    log.close()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["log", "log.1"]
    assert [(tmp_path / name).read_bytes() for name in ("log", "log.1")] == [RECORD, RECORD * 3]


def test_a_log_that_somebody_removed_is_begun_again(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = LogFile(str(path), max_size=len(RECORD), max_files=1)
    log.append(RECORD)
    path.unlink()
    log.append(RECORD)
    log.close()
    assert path.read_bytes() == RECORD


def test_without_a_process_for_compression_the_file_stays_plain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr("corten.shim.packer.os.fork", refuse)
    log = LogFile(str(tmp_path / "log"), max_size=len(RECORD), max_files=2, compress=True)
    log.append(RECORD * 2)
    log.close()
    assert (tmp_path / "log.1").read_bytes() == RECORD
    assert "Resource temporarily unavailable" in capfd.readouterr().err


def test_rotated_files_are_compressed_in_the_background(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = LogFile(str(path), max_size=len(RECORD), max_files=3, compress=True)
    for number in range(4):
        log.append(RECORD.replace(b"a", b"%d" % number))
        wait_until_compressed(log, tmp_path)
    log.close()
    assert gzip.decompress((tmp_path / "log.1.gz").read_bytes()) == RECORD.replace(b"a", b"2")
    assert gzip.decompress((tmp_path / "log.2.gz").read_bytes()) == RECORD.replace(b"a", b"1")
    assert not (tmp_path / "log.3.gz").exists()


def wait_until_compressed(log: LogFile, folder: Path) -> None:
    deadline = time.monotonic() + 60
    while any(not entry.name.endswith(".gz") and entry.name != "log" for entry in folder.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
        log.settle()


def test_a_full_disk_costs_records_but_never_tears_one(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = LogFile(str(path))
    log.append(RECORD)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * len(RECORD) + 10, before[1]))  # EFBIG stands for ENOSPC
    try:
        log.append(RECORD * 2)
        log.append(RECORD)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    log.append(RECORD)
    log.close()
    assert path.read_bytes() == RECORD * 3
    assert log.dropped == 2 * len(RECORD)


def test_a_torn_record_is_completed_when_the_file_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(RECORD + b'{"log":"torn he')
    LogFile(str(path)).close()
    first, second = (json.loads(line) for line in path.read_bytes().splitlines())
    assert first == json.loads(RECORD)
    assert (second["log"], second["stream"]) == ("torn he", "stdout")
    assert second["time"].endswith("Z")


def test_mending_leaves_a_whole_and_a_missing_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert mend(str(path)) == 0
    path.write_bytes(RECORD)
    assert mend(str(path)) == 0
    assert path.read_bytes() == RECORD


def test_every_torn_place_gives_valid_json_and_keeps_the_output() -> None:
    output = 'a "quoted" <tag> \\ é\t'.encode()
    record = RecordEncoder("stderr").feed(output + b"\n", MOMENT)
    for cut in range(len(record)):
        mended = complete(record[:cut], MOMENT)
        if not mended:
            assert cut <= len(b'{"log":"') + 1
            continue
        text = json.loads(mended)["log"]
        assert (output.decode() + "\n").startswith(text)
    assert json.loads(complete(record[:-1], MOMENT))["stream"] == "stderr"


def test_a_torn_record_before_its_text_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(RECORD + b'{"lo')
    assert mend(str(path)) == 4
    assert path.read_bytes() == RECORD
    assert os.listdir(tmp_path) == ["log"]


def test_files_move_on_over_a_gap_and_no_further_than_the_last(tmp_path: Path) -> None:
    for number in (1, 3, 4, 9):
        (tmp_path / f"log.{number}").write_bytes(b"%d" % number)
    log = LogFile(str(tmp_path / "log"), max_size=len(RECORD), max_files=5)
    log.append(RECORD * 2)
    log.close()
    found = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert found == {"log": RECORD, "log.1": RECORD, "log.2": b"1", "log.4": b"3", "log.9": b"9"}
