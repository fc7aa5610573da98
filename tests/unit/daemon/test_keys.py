"""Values of daemon.json's keys that say what containers get."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from corten.daemon import config, keys
from corten.daemon.listeners import group_id
from corten.engine.security import parse_security_opt
from corten.errors import InvalidArgument

PATH = "/etc/corten/daemon.json"


@pytest.mark.parametrize(
    ("given", "found"),
    [("64M", 64 << 20), ("1g", 1 << 30), (4096, 4096), ("0", 0)],
)
def test_sizes_are_docker_s(given: Any, found: int) -> None:
    assert keys.size("default-shm-size", given) == found


def test_what_is_empty_leaves_the_default() -> None:
    file = {"default-shm-size": 0, "default-ipc-mode": "", "default-cgroupns-mode": "", "storage-driver": ""}
    made = config.settings(PATH, file, {})
    assert (made.default_shm_size, made.default_ipc_mode, made.storage_driver) == (64 << 20, "private", "overlay2")


def test_a_seccomp_profile_is_read_with_the_settings(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    assert config.settings(PATH, {"seccomp-profile": str(path)}, {}).seccomp_text == path.read_text()
    assert config.settings(PATH, {"seccomp-profile": "builtin"}, {}).seccomp_text == ""
    assert config.settings(PATH, {"seccomp-profile": "unconfined"}, {}).seccomp_text == "unconfined"
    path.write_text("{")
    with pytest.raises(InvalidArgument, match="Decoding seccomp profile failed"):
        config.settings(PATH, {"seccomp-profile": str(path)}, {})


def test_what_a_container_says_goes_before_the_node_s_word() -> None:
    node = {"no_new_privileges": True, "seccomp": "unconfined"}
    silent = parse_security_opt([], privileged=False, **node)  # type: ignore[arg-type]
    assert (silent.no_new_privileges, silent.seccomp) == (True, "unconfined")
    said = parse_security_opt(["no-new-privileges=false", "seccomp=builtin"], privileged=False, **node)  # type: ignore[arg-type]
    assert (said.no_new_privileges, said.seccomp) == (False, "")
    assert parse_security_opt([], privileged=True, seccomp="{}").seccomp == "unconfined"


def test_a_line_of_the_json_log_is_one_object_whatever_it_says() -> None:
    record = logging.LogRecord("corten.x", logging.WARNING, "x", 1, 'two\nlines "%s"', ("a",), None)
    found = json.loads(keys.JsonLines().format(record))
    assert (found["level"], found["msg"], found["logger"]) == ("warning", 'two\nlines "a"', "corten.x")


def test_a_group_is_a_name_or_a_number() -> None:
    assert (group_id("0"), group_id("root"), group_id("4711")) == (0, 0, 4711)
    with pytest.raises(InvalidArgument, match="group nobodysgroup not found"):
        group_id("nobodysgroup")
