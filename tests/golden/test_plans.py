"""Plans as text: config.json, facts.json and case.json in, plan.txt out.  No root, no kernel.

`CORTEN_UPDATE_GOLDEN=1 python -m pytest tests/golden` writes the plans anew; read the difference before you commit it.
"""

from __future__ import annotations

import os

import pytest

from corten.launch.encode import encode
from corten.launch.execops import Exec, Hook, Seccomp
from corten.launch.ops import LAUNCHER, Clone, CloneLegacy, Close, SendFd, Wait
from corten.launch.userops import SetCaps
from support.goldenplans import CASES, PLANS, compiled


@pytest.mark.parametrize("case", CASES)
def test_plan_is_as_recorded(case: str) -> None:
    text = compiled(case).describe()
    path = PLANS / case / "plan.txt"
    if os.environ.get("CORTEN_UPDATE_GOLDEN"):
        path.write_text(text)
    assert path.read_text() == text


@pytest.mark.parametrize("case", CASES)
def test_plan_can_be_encoded_with_its_inputs_alone(case: str) -> None:
    plan = compiled(case)
    data = encode(plan, dict.fromkeys(plan.inputs, 9), 8)
    assert data.startswith(b"CORTEN\0\1")
    assert len(data) % 8 == 0


@pytest.mark.parametrize("case", CASES)
def test_every_plan_filters_right_before_execve_or_the_clone_or_before_a_child_that_is_seen_waits(case: str) -> None:
    ops = compiled(case).ops
    assert isinstance(ops[-1], Exec)
    places = [i for i, op in enumerate(ops) if isinstance(op, Seccomp)]
    (clone,) = [i for i, op in enumerate(ops) if isinstance(op, Clone)]
    # or, under a filter that allows what is left to do, before the clone and with CAP_SYS_ADMIN given back at once
    early = [clone - 2] if isinstance(ops[clone - 1], SetCaps) else [clone - 1]
    if "listener" in compiled(case).inputs:
        # the listener is handed on between the two; of an init before the wait for its start
        after = {SendFd, Wait, Close, SetCaps, CloneLegacy}
        assert {type(op) for op in ops[places[0] + 1 : max(clone, places[0] + 4)]} <= after
        return
    if places and clone < places[0] < len(ops) - 2:
        assert {type(op) for op in ops[places[0] + 1 : -1]} <= {SetCaps, Wait, Close, Hook}
        assert not [op for op in ops[clone : places[0]] if isinstance(op, Wait | Hook)], "it waits for nothing before"
        return
    assert places in ([], [len(ops) - 2], early)


@pytest.mark.parametrize("case", CASES)
def test_every_plan_clones_once_and_the_launcher_acts_only_after(case: str) -> None:
    ops = compiled(case).ops
    (clone,) = [i for i, op in enumerate(ops) if isinstance(op, Clone)]
    acting = [i for i, op in enumerate(ops) if op.side == LAUNCHER]
    assert all(i > clone for i in acting)
    assert not (acting and isinstance(ops[clone], CloneLegacy))


@pytest.mark.parametrize("case", CASES)
def test_slots_are_filled_before_they_are_used_and_closed_once(case: str) -> None:
    plan = compiled(case)
    opened = set(plan.inputs)
    fills = {
        "Open": ("slot",), "OpenDevice": ("slot",), "OpenTree": ("slot",), "CloneTree": ("slot",),
        "FsMount": ("slot",), "Seccomp": ("listener",), "Pipe": ("read", "write"), "OpenPty": ("master", "slave"),
        "MakeUserNamespace": ("slot",), "MountDetached": ("slot",),
    }  # fmt: skip
    for op in plan.ops:
        filled = fills.get(type(op).__name__, ())
        for letter, name in zip(op.form, op.order, strict=False):
            used = getattr(op, name)
            if letter == "d" and used:
                assert name in filled or used in opened, f"{op.describe()}: {used} is not open"
            if letter == "D":
                assert set(used) <= opened, f"{op.describe()}: not open"
                opened -= set(used)
        opened.update(getattr(op, name) for name in filled if getattr(op, name))
    assert not opened, f"left open: {opened}"
