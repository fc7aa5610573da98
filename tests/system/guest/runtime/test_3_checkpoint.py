"""Checkpoints by CRIU 3.17, and what runc's restore makes of them (ours: test_5_restore.py)."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.guestbundle import CGROUP, Lab
from support.guestcounter import COUNT, Counter


@pytest.fixture
def counter(lab: Lab) -> Iterator[Counter]:
    made = Counter(lab)
    yield made
    made.close()


@pytest.mark.slow
def test_a_checkpoint_may_leave_the_container_running(counter: Counter) -> None:
    counter.start()
    assert counter.checkpoint("--leave-running") == ""
    assert counter.lab.state()["status"] == "running"
    counter.wait_for_more(counter.number())
    names = {path.name for path in counter.images.iterdir()}
    assert {"inventory.img", "pstree.img", "descriptors.json", "dump.log"} <= names
    assert json.loads((counter.images / "descriptors.json").read_text())[1].startswith("pipe:[")
    assert counter.lab.run("exec", "c", "echo", "in") == "in\n"


@pytest.mark.slow
def test_a_checkpoint_ends_the_container_and_runc_restores_it(counter: Counter) -> None:
    counter.start()
    before = counter.number()
    work = counter.lab.folder / "work"
    assert counter.checkpoint("--work-path", str(work)) == ""
    assert "does not exist" in counter.lab.run("state", "c", status=1)
    assert not CGROUP.exists()
    assert (work / "dump.log").exists()
    stopped_at = counter.number()
    assert stopped_at >= before
    time.sleep(0.5)
    assert counter.number() == stopped_at
    other = counter.restore_with_runc()
    assert other.state()["status"] == "running"
    counter.goes_on(stopped_at)
    other.run("kill", "c", "KILL")


@pytest.mark.slow
def test_a_paused_container_is_dumped(counter: Counter) -> None:
    counter.start()
    counter.lab.run("pause", "c")
    counter.checkpoint("--leave-running")
    assert (counter.images / "inventory.img").exists()
    assert counter.lab.state()["status"] == "paused"


@pytest.mark.slow
def test_binds_and_masked_files_are_external(counter: Counter, tmp_path: Path) -> None:
    (tmp_path / "host").mkdir()
    (counter.lab.rootfs / "run").symlink_to("tmp")
    (counter.lab.rootfs / "tmp/in").mkdir()
    config = counter.lab.configure("sh", "-c", COUNT)
    source = {"source": f"{tmp_path}/host", "type": "bind", "options": ["bind"]}
    config["mounts"].append({"destination": "/run/in", **source})
    counter.lab.write(config)
    counter.start()
    counter.checkpoint()
    counter.wait_for_more(0)
    stopped_at = counter.number()
    other = counter.restore_with_runc()
    counter.wait_for_more(stopped_at)
    (tmp_path / "host/seen").touch()
    assert "seen" in other.run("exec", "c", "sh", "-c", "echo /tmp/in/*")


@pytest.mark.slow
def test_a_dump_after_a_pre_dump_writes_only_what_changed(counter: Counter) -> None:
    counter.start()
    first = counter.lab.folder / "first"
    counter.lab.run("checkpoint", "--pre-dump", "--image-path", str(first), "c")
    assert counter.lab.state()["status"] == "running"
    assert not (first / "descriptors.json").exists()
    counter.checkpoint("--parent-path", "../first")
    assert os.readlink(counter.images / "parent") == "../first"
    stopped_at = counter.number()
    counter.restore_with_runc()
    counter.wait_for_more(stopped_at)


@pytest.mark.slow
def test_a_failure_names_the_log_and_leaves_the_container(counter: Counter) -> None:
    counter.lab.detached("run", "-d", "c")  # its output is a file of the host
    counter.wait_for_more(0)
    shown = counter.lab.run("checkpoint", "--image-path", str(counter.images), "c", status=1)
    assert f"criu failed: type DUMP errno 0\\nlog file: {counter.images}/dump.log" in shown
    counter.wait_for_more(counter.number())
    assert counter.lab.state()["status"] == "running"


@pytest.mark.slow
def test_a_container_that_does_not_run_is_not_dumped(either: Lab) -> None:
    either.configure("true")
    either.detached("create", "c")
    assert "Container cannot be checkpointed in created state" in either.run("checkpoint", "c", status=1)
