"""`features`: of the form that runtime-spec has for it, and true."""

from __future__ import annotations

import json
from typing import Any

import pytest

from corten.errors import InvalidArgument
from corten.launch import seccomp_compile
from corten.launch.options import MountOptions
from corten.runtime import features

TEXTS, TRUTH = [str], bool

# runtime-spec features.md and features-linux.md: every key that there is, and its kind
FORM: dict[str, Any] = {
    "ociVersionMin": str,
    "ociVersionMax": str,
    "hooks": TEXTS,
    "mountOptions": TEXTS,
    "linux": {
        "namespaces": TEXTS,
        "capabilities": TEXTS,
        "cgroup": {"v1": TRUTH, "v2": TRUTH, "systemd": TRUTH, "systemdUser": TRUTH, "rdma": TRUTH},
        "seccomp": {
            "enabled": TRUTH,
            **dict.fromkeys(("actions", "operators", "archs", "knownFlags", "supportedFlags"), TEXTS),
        },
        "apparmor": {"enabled": TRUTH},
        "selinux": {"enabled": TRUTH},
        "intelRdt": {"enabled": TRUTH, "schemata": TRUTH, "monitoring": TRUTH},
        "mountExtensions": {"idmap": {"enabled": TRUTH}},
        "netDevices": {"enabled": TRUTH},
        "memoryPolicy": {"modes": TEXTS, "flags": TEXTS},
    },
    "annotations": {str: str},
    "potentiallyUnsafeConfigAnnotations": TEXTS,
}


def misfits(value: Any, form: Any, where: str = "") -> list[str]:
    """Places of a document that are not as its form says, keys that are missing among them."""
    if isinstance(form, list):
        return [] if isinstance(value, list) and all(isinstance(item, form[0]) for item in value) else [where]
    if not isinstance(form, dict):
        return [] if isinstance(value, form) else [where]
    if form == {str: str}:
        return [] if all(isinstance(text, str) for pair in value.items() for text in pair) else [where]
    odd = [f"{where}.{key}" for key in set(form) ^ set(value)]
    return odd + [row for key in form.keys() & value.keys() for row in misfits(value[key], form[key], f"{where}.{key}")]


def test_the_document_has_every_key_of_the_specification_and_no_other() -> None:
    found = features.document()
    assert misfits(found, FORM) == []
    assert json.loads(json.dumps(found)) == found
    broken = {**found, "hooks": [1], "linux": {**found["linux"], "cgroup": {}, "more": 1}}
    assert {".hooks", ".linux.more", ".linux.cgroup.v1"} <= set(misfits(broken, FORM))


def test_lists_name_nothing_twice() -> None:
    found = features.document()
    linux = found["linux"]
    for names in (found["mountOptions"], linux["namespaces"], linux["capabilities"], linux["seccomp"]["actions"]):
        assert len(set(names)) == len(names) > 0


def test_every_mount_option_that_it_names_is_taken() -> None:
    for word in features.mount_options():
        assert MountOptions((word,), "mounts[0]").data in ((), (word,)), word


@pytest.mark.parametrize("action", features.document()["linux"]["seccomp"]["actions"])
def test_every_seccomp_action_that_it_names_is_known(action: str) -> None:
    assert action in seccomp_compile.ACTIONS


def test_what_the_parser_refuses_is_not_a_feature(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(obj: object) -> None:
        raise InvalidArgument("not supported yet")

    monkeypatch.setattr(features, "parse_config", refuse)
    linux = features.document()["linux"]
    assert linux["netDevices"] == {"enabled": False}
    assert linux["intelRdt"] == {"enabled": False, "schemata": False, "monitoring": False}
    monkeypatch.setattr(features, "parse_config", lambda obj: None)
    assert features.document()["linux"]["netDevices"] == {"enabled": True}
