"""What `exec` makes of its flags."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from corten.errors import InvalidArgument, NotFound
from corten.runtime import args, exec_process
from corten.runtime.state import State
from corten.spec.process import CAPABILITIES, Capabilities, Process, User

PROCESS = {
    "args": ["sh"],
    "cwd": "/srv",
    "env": ["A=1"],
    "user": {"uid": 5, "gid": 6, "additionalGids": [7]},
    "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]},
    "terminal": True,
}


def process(tmp_path: Path, line: str) -> Process:
    (tmp_path / "config.json").write_text(json.dumps({"ociVersion": "1.0.2", "process": PROCESS}))
    found = args.parse(["corten-runtime", "exec", *line.split()])
    record = State(str(tmp_path), "c", "/b", "/b/rootfs")
    return exec_process.from_flags(record, found.arguments[1:], found.options)


def test_it_is_the_process_of_the_container_but_for_the_command_and_the_terminal(tmp_path: Path) -> None:
    found = process(tmp_path, "c ls -l")
    assert (found.args, found.cwd, found.env, found.terminal) == (("ls", "-l"), "/srv", ("A=1",), False)
    assert found.user == User(5, 6, None, (7,))


def test_flags_change_it(tmp_path: Path) -> None:
    found = process(tmp_path, "-t --cwd /x -e B=2 -e C=3 -u 8 -g 9 -g 10 --no-new-privs -c CAP_CHOWN c id")
    assert (found.cwd, found.env, found.terminal, found.no_new_privileges) == ("/x", ("A=1", "B=2", "C=3"), True, True)
    assert found.user == User(8, 6, None, (9, 10))
    assert found.capabilities is not None
    both = 1 << CAPABILITIES.index("CAP_KILL") | 1 << CAPABILITIES.index("CAP_CHOWN")
    assert found.capabilities.effective == found.capabilities.bounding == found.capabilities.permitted == both
    assert found.capabilities.ambient == found.capabilities.inheritable == 0


def test_capabilities_of_an_exec_stay_out_of_the_sets_that_programs_hand_on() -> None:
    before = Capabilities(bounding=1, inheritable=1, ambient=1)
    assert exec_process.with_capabilities(before, ["CAP_KILL"]) == Capabilities(0b100001, 0b100000, 1, 0b100000, 1)


@pytest.mark.parametrize("user", ["root", "1000:staff", "-1", "4294967295", "0x10", "1:2:3", "٣", ""])
def test_a_user_is_a_number_of_32_bits_and_never_a_name(tmp_path: Path, user: str) -> None:
    with pytest.raises(InvalidArgument):
        exec_process.user(user, User())


def test_an_unknown_capability_is_kept_to_be_told_and_gives_nothing(tmp_path: Path) -> None:
    found = process(tmp_path, "-c CAP_NOPE -c kill c id").capabilities
    assert found is not None
    assert found.unknown == ("CAP_NOPE", "kill")
    without = process(tmp_path, "c id").capabilities
    assert without is not None
    assert (found.bounding, found.effective) == (without.bounding, without.effective)


def test_a_process_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "process.json"
    path.write_text(json.dumps(PROCESS))
    assert exec_process.from_file(str(path)).cwd == "/srv"
    with pytest.raises(NotFound, match="no such file or directory"):
        exec_process.from_file(str(tmp_path / "nowhere"))
    path.write_text("{}")
    with pytest.raises(InvalidArgument, match=r"process\.cwd"):
        exec_process.from_file(str(path))


def test_an_id_of_thousands_of_digits_is_none() -> None:
    with pytest.raises(InvalidArgument, match=r"is not a numeric id$"):
        exec_process.number("9" * 5000, "user")
