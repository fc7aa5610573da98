"""The cgroup of the shims, in folders that stand for the kernel's."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from corten.daemon import shimplace
from corten.launch.facts import HostFacts
from corten.shim import main
from corten.sys import files

PLACE = "corten-0a0b0c0d-shims"


def facts_of(folder: Path) -> HostFacts:
    """A hybrid machine with two hierarchies and cgroup2 below `folder`."""
    for name in ("pids", "memory", "unified"):
        (folder / name).mkdir()
    mounts = {"pids": str(folder / "pids"), "memory": str(folder / "memory")}
    return HostFacts((6, 1), "hybrid", mounts, str(folder / "unified"))


def test_it_is_made_in_every_hierarchy_and_joined_by_thread_where_that_is_quick(tmp_path: Path) -> None:
    joins = shimplace.prepare(facts_of(tmp_path), "0a0b0c0d")
    assert joins == (
        f"{tmp_path}/pids/{PLACE}/tasks",
        f"{tmp_path}/memory/{PLACE}/tasks",
        f"{tmp_path}/unified/{PLACE}/cgroup.procs",
    )
    assert all(os.path.isdir(os.path.dirname(join)) for join in joins)


def test_on_version_2_alone_no_controller_is_handed_down_for_it(tmp_path: Path) -> None:
    (tmp_path / "cgroup.subtree_control").touch()
    (tmp_path / "cgroup.controllers").write_text("memory pids")
    joins = shimplace.prepare(HostFacts((6, 1), "v2", {}, str(tmp_path)), "0a0b0c0d")
    assert joins == (f"{tmp_path}/{PLACE}/cgroup.procs",)
    assert (tmp_path / "cgroup.subtree_control").read_text() == ""


def test_where_it_cannot_be_made_the_log_says_so_and_shims_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    facts = facts_of(tmp_path)
    (tmp_path / "memory").rmdir()
    (tmp_path / "memory").touch()
    with caplog.at_level(logging.WARNING):
        assert shimplace.prepare(facts, "0a0b0c0d") == ()
    assert "shims are in the cgroup of cortend: " in caplog.text


def test_a_shim_moves_in_those_hierarchies_alone_in_which_it_is_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    facts = facts_of(tmp_path)
    shimplace.prepare(facts, "0a0b0c0d")
    procs = {name: tmp_path / name / PLACE / "cgroup.procs" for name in ("pids", "memory", "unified")}
    for file in procs.values():
        file.touch()
    text = (
        f"8:pids:/{PLACE}\n4:memory:/system.slice/cortend.service\n3:cpu:/elsewhere\n0::/system.slice/cortend.service\n"
    )
    monkeypatch.setattr(files, "read_text", lambda path: text)
    shimplace.take_in(facts, "0a0b0c0d", [0, os.getpid()])
    own = str(os.getpid())
    assert {name: file.read_text() for name, file in procs.items()} == {"pids": "", "memory": own, "unified": own}
    assert caplog.text == ""


def test_a_shim_that_has_ended_meanwhile_is_no_news(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shimplace.take_in(facts_of(tmp_path), "0a0b0c0d", [1 << 30])
    assert caplog.text == ""


def test_a_zygote_joins_what_it_can_and_tells_of_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there, missing = tmp_path / "tasks", tmp_path / "missing" / "tasks"
    there.touch()
    main._join([str(missing), str(there)])
    assert there.read_text() == "0"
    told = f"corten-shim: shims do not come to their cgroup: {missing}: no such file or directory\n"
    assert capsys.readouterr().err == told
