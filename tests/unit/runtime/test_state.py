"""The record of a container, its derived status, and the table of refusals."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from corten.errors import AlreadyExists, FailedPrecondition, Internal, InvalidArgument, NotFound
from corten.runtime import state
from corten.runtime.cgroups import CgroupPaths


def record(root: Path, id: str = "c1") -> state.State:
    directory = state.make_directory(str(root), id)
    made = state.State(directory, id, "/bundle", "/bundle/rootfs")
    made.cgroup = CgroupPaths("v1", {"pids": str(root / "cgroup")}, "")
    return made


def test_what_is_saved_is_loaded_again(tmp_path: Path) -> None:
    saved = record(tmp_path)
    saved.annotations = {"a": "b"}
    saved.poststop = [{"path": "/x", "args": [], "env": [], "timeout": 1}]
    saved.pids_limit, saved.pids_limit_origin = 500, "built-in default"
    saved.save()
    loaded = state.State.load(str(tmp_path), "c1")
    for name in state.State.__slots__:
        if name != "cgroup":
            assert getattr(loaded, name) == getattr(saved, name), name
    assert loaded.cgroup.to_obj() == saved.cgroup.to_obj()
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("field", sorted(state.LATER))
def test_a_record_of_an_older_version_is_read_with_what_was_true_then(tmp_path: Path, field: str) -> None:
    saved = record(tmp_path)
    saved.save()
    file = tmp_path / "c1" / state.STATE_FILE
    old = json.loads(file.read_bytes())
    del old[field]
    file.write_text(json.dumps(old))
    assert getattr(state.State.load(str(tmp_path), "c1"), field) == getattr(saved, field)


def test_an_unknown_id_is_refused_in_the_words_of_runc(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"^container does not exist$"):
        state.State.load(str(tmp_path), "nobody")


def test_an_id_is_taken_once(tmp_path: Path) -> None:
    record(tmp_path)
    with pytest.raises(AlreadyExists, match=r"^container with given ID already exists$"):
        record(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"version":1}', b'{"bundle":"/b","rootfs":"","cgroup":"here"}']
)
def test_a_damaged_record_is_no_unknown_id(tmp_path: Path, content: bytes) -> None:
    record(tmp_path)
    (tmp_path / "c1" / state.STATE_FILE).write_bytes(content)
    with pytest.raises(Internal):
        state.State.load(str(tmp_path), "c1")


@pytest.mark.parametrize("id", ["", ".", "..", "a/b", "a b", "ä", "x" * 256])
def test_an_id_that_cannot_be_a_file_name_is_refused(id: str) -> None:
    with pytest.raises(InvalidArgument):
        state.check_id(id)


def test_the_status_follows_from_process_and_fifo(tmp_path: Path) -> None:
    made = record(tmp_path)
    assert made.status() == "creating"
    with subprocess.Popen(["sleep", "100"]) as process:
        made.pid = process.pid
        made.start_time = state.process_start(process.pid)[0]
        os.mkfifo(made.path(state.START_FIFO))
        waits = os.open(made.path(state.START_FIFO), os.O_RDWR)
        made.ready = False
        found = [made.status()]
        made.ready = True
        found.append(made.status())
        os.close(waits)
        found.append(made.status())
        os.unlink(made.path(state.START_FIFO))
        found.append(made.status())
        process.kill()
        assert found == ["creating", "created", "running", "running"]  # the third: left by a start that was killed
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert made.status() == "stopped", "a zombie does not run"
    assert made.status() == "stopped"
    assert made.listing("stopped", "")["pid"] == 0


def test_a_recycled_pid_is_not_ours(tmp_path: Path) -> None:
    made = record(tmp_path)
    made.pid = os.getpid()
    made.start_time = state.process_start(os.getpid())[0] - 1
    assert made.status() == "stopped"
    assert made.open_pidfd() == -1
    made.start_time += 1
    pidfd = made.open_pidfd()
    assert pidfd >= 0
    os.close(pidfd)


@pytest.mark.parametrize(
    ("verb", "status", "text"),
    [
        ("start", "running", "cannot start an already running container"),
        ("start", "stopped", "cannot start a container that has stopped"),
        ("kill", "stopped", "container not running"),
        ("delete", "running", "cannot delete container c1 that is not stopped: running"),
        ("delete", "paused", "cannot delete container c1 that is not stopped: paused"),
        ("exec", "stopped", "cannot exec in a stopped container"),
        ("exec", "paused", "cannot exec in a paused container (use --ignore-paused to override)"),
        ("pause", "stopped", "container not running"),
        ("pause", "paused", "container not running"),
        ("resume", "running", "container not paused"),
        ("update", "stopped", "container not running"),
    ],
)
def test_the_table_refuses_in_the_words_of_runc(verb: str, status: str, text: str) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        state.allow(verb, "c1", status)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("verb", "status"),
    [("start", "created"), ("kill", "created"), ("kill", "paused"), ("delete", "stopped"), ("exec", "created")],
)
def test_the_table_allows(verb: str, status: str) -> None:
    state.allow(verb, "c1", status)


DAMAGES = {
    '{"ociVersion": ': "unexpected end of JSON input",
    "[]": "config.json: expected an object",
    '{"ociVersion": "1.0.2", "process": {"args": ["x"], "cwd": "y"}}': (
        "config.json.process.cwd: 'y' is not an absolute path"
    ),
    '{"ociVersion": "1.0.2", "linux": {"intelRdt": {"closID": "."}}}': "invalid intelRdt.ClosID '.'",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_copy_of_the_configuration_is_told_with_its_name(tmp_path: Path, damage: str) -> None:
    made = record(tmp_path)
    copy = Path(made.path(state.CONFIG_FILE))
    copy.write_text('{"ociVersion": "1.0.2", "hostname": "h"}')
    assert made.config().hostname == "h"
    copy.write_text(damage)
    with pytest.raises(InvalidArgument) as caught:
        made.config()
    assert caught.value.text == f"{copy}: {DAMAGES[damage]}"


def test_the_oci_state_has_a_pid_until_it_is_stopped(tmp_path: Path) -> None:
    made = record(tmp_path)
    made.pid = 7
    assert made.oci("creating") == {
        "ociVersion": "1.3.0", "id": "c1", "status": "creating", "pid": 7, "bundle": "/bundle",
    }  # fmt: skip
    assert "pid" not in made.oci("stopped")


def test_containers_are_listed_by_their_records(tmp_path: Path) -> None:
    assert state.list_ids(str(tmp_path / "nowhere")) == []
    for id in ("b", "a"):
        record(tmp_path, id).save()
    (tmp_path / "half-made").mkdir()
    assert state.list_ids(str(tmp_path)) == ["a", "b"]
