"""Ops: the same numbers here and in the launcher, one encoding, sentences."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from corten.launch import execops, mountops, ops, userops
from corten.launch.encode import FIELDS
from corten.launch.spawn import sentence
from support.ops import op_classes

HEADER = Path(__file__).parents[3] / "launcher" / "ops.h"


def test_numbers_and_sides_are_those_of_the_launcher() -> None:
    table = re.findall(r"X\((\d+), op_(\w+), (CHILD|LAUNCHER)\)", HEADER.read_text())
    ours = [
        (c.code, re.sub(r"(?<!^)(?=[A-Z])", "_", c.__name__).lower(), ("CHILD", "LAUNCHER")[c.side])
        for c in op_classes()
    ]
    assert [(int(code), name, side) for code, name, side in table] == ours


def test_no_number_is_used_twice_or_too_big_for_the_table() -> None:
    numbers = [c.code for c in op_classes()]
    assert len(set(numbers)) == len(numbers)
    assert min(numbers) > 0
    assert max(numbers) < 128


@pytest.mark.parametrize("op", op_classes(), ids=lambda op: op.__name__)
def test_every_field_has_a_known_letter_and_a_slot_of_its_own(op: type[ops.Op]) -> None:
    assert set(op.form) <= set(FIELDS)
    if op.order:
        assert len(op.order) == len(op.form)
        assert set(op.order) <= {name for base in op.__mro__ for name in getattr(base, "__slots__", ())}


def plan_of(op: ops.Op) -> ops.Plan:
    return ops.Plan((op, ops.Setsid()), ())


def test_failed_mount_names_source_target_and_step() -> None:
    op = mountops.OpenTree("mount.0", "/src", 1, "/data")
    assert sentence(plan_of(op), 0, 2) == "mount /src on /data: no such file or directory (step 1 of 2)"


def test_explanation_of_the_kernel_comes_with_the_sentence() -> None:
    op = mountops.FsMount("mount.0", "tmpfs", ("size=x",), 0, on="/data")
    assert sentence(plan_of(op), 0, 22, 0, "tmpfs: Bad value for 'size'") == (
        "mount tmpfs on /data: invalid argument: tmpfs: Bad value for 'size' (step 1 of 2)"
    )


@pytest.mark.parametrize(
    ("name", "errno", "detail", "text"),
    [
        ("foo", 2, 0, 'exec: "foo": executable file not found in $PATH'),
        ("foo", 13, 1, 'exec: "foo": executable file not found in $PATH'),
        ("/x", 2, 0, 'exec: "/x": stat /x: no such file or directory'),
        ("/etc/passwd", 13, 1, 'exec: "/etc/passwd": permission denied'),
    ],
)
def test_executable_lookup_fails_in_the_words_of_runc(name: str, errno: int, detail: int, text: str) -> None:
    assert sentence(plan_of(userops.FindExecutable(name, ())), 0, errno, detail) == text


def test_rlimit_fails_in_the_words_of_runc() -> None:
    text = "error setting rlimits for ready process: error setting rlimit type 7: operation not permitted"
    assert sentence(plan_of(userops.SetRlimit(7, 1, 2)), 0, 1) == text


@pytest.mark.parametrize(
    ("detail", "errno", "said", "text"),
    [
        (0x0200, 10, "stdout: a\n, stderr: b", "error running hook: exit status 2, stdout: a\n, stderr: b"),
        (9, 10, "stdout: , stderr:", "error running hook: signal: killed, stdout: , stderr:"),
        (40, 10, "", "error running hook: signal: signal 40"),
        (0, 110, "", "hook ran past specified timeout of 1.0s"),
        (0, 2, "", "fork/exec /bin/h: no such file or directory"),
    ],
)
def test_hook_says_how_it_ended_in_the_words_of_runc(detail: int, errno: int, said: str, text: str) -> None:
    op = execops.Hook("createContainer", "/bin/h", (), (), b"", b"", 1, 3)
    assert sentence(plan_of(op), 0, errno, detail, said) == f"error running hook #3: {text} (step 1 of 2)"


@pytest.mark.parametrize(
    ("errno", "text"),
    [
        (1, "cannot change locked flags of the mount for /x: mount_setattr m -ro: operation not permitted"),
        (22, "mount for /x: mount_setattr m -ro: invalid argument"),
    ],
)
def test_flags_that_are_locked_are_told_by_the_number_of_the_failure(errno: int, text: str) -> None:
    op = mountops.MountSetattr("m", 0, mountops.MOUNT_ATTR_RDONLY, 0, 0, on="/x")
    assert sentence(plan_of(op), 0, errno) == f"{text} (step 1 of 2)"


def test_capabilities_are_named() -> None:
    assert userops.capability_names(0) == "none"
    assert userops.capability_names(0b100001) == "chown kill"
    assert userops.capability_names((1 << 41) - 1) == "all 41"
