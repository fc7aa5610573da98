"""`features`: of the form that runtime-spec has for it, and true."""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
from typing import Any

import pytest

from corten.errors import Internal, InvalidArgument
from corten.launch import options, seccomp, seccomp_compile
from corten.launch.options import MountOptions
from corten.runtime import features
from corten.runtime.checkpoint import CONFIG_ANNOTATION
from corten.runtime.unitproperties import ANNOTATION
from corten.spec.runtime import NAMESPACES, Hooks, parse_config
from support import paths

SOURCE = paths.REPOSITORY / "src/corten"
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


# from both sides: what is listed compiles, and nothing else does ------------------------------------------

LINUX = features.document()["linux"]
SECCOMP = LINUX["seccomp"]
# of a file system, which the runtime hands on as it is
OF_A_FILE_SYSTEM = ("size=1m", "mode=755", "newinstance", "rfoo", "nosize", "RO", "r", "rr", "shared2")


@pytest.mark.parametrize("word", features.mount_options())
def test_a_mount_option_that_it_names_is_understood(word: str) -> None:
    assert MountOptions((word,), "mounts[0]").data == ((word,) if options.SUPERBLOCK.get(word) else ()), word


def test_a_mount_option_that_the_parser_understands_is_named() -> None:
    tables = [table for name, table in vars(options).items() if name.isupper() and isinstance(table, dict)]
    understood = {*(word for table in tables for word in table), *literals(MountOptions.__init__)}
    assert understood - {*options.UNSUPPORTED, "r", ""} == set(features.mount_options())
    for word in OF_A_FILE_SYSTEM:
        assert MountOptions((word,), "mounts[0]").data == (word,)
        assert word not in features.mount_options()


def literals(function: Any) -> set[str]:
    """The texts that a function compares with."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    compared = [node for node in ast.walk(tree) if isinstance(node, ast.Compare)]
    return {
        item.value
        for node in compared
        for item in ast.walk(node)
        if isinstance(item, ast.Constant) and isinstance(item.value, str)
    }


def compiles(**changes: Any) -> bool:
    """Whether a filter with these fields becomes a program."""
    rule = {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", **changes.pop("rule", {})}
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/agent", **changes, "syscalls": [rule]}
    try:
        seccomp.filter_flags(profile)
        return bool(seccomp_compile.compile_profile(profile))
    except InvalidArgument:
        return False


# of runtime-spec 1.3, and what nobody has
ACTIONS = ("KILL", "KILL_PROCESS", "KILL_THREAD", "TRAP", "ERRNO", "TRACE", "ALLOW", "LOG", "NOTIFY", "NOPE", "")
SECCOMP_OPERATORS = ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ", "NOPE", "")
SECCOMP_FLAGS = ("TSYNC", "LOG", "SPEC_ALLOW", "WAIT_KILLABLE_RECV", "NEW_LISTENER", "TSYNC_ESRCH", "")


@pytest.mark.parametrize("name", [f"SCMP_ACT_{name}" for name in ACTIONS])
def test_an_action_compiles_that_it_names_and_no_other(name: str) -> None:
    assert compiles(rule={"action": name}) == (name in SECCOMP["actions"])


@pytest.mark.parametrize("name", [f"SCMP_CMP_{name}" for name in SECCOMP_OPERATORS])
def test_an_operator_compiles_that_it_names_and_no_other(name: str) -> None:
    rule = {"args": [{"index": 0, "value": 1, "valueTwo": 1, "op": name}]}
    assert compiles(rule=rule) == (name in SECCOMP["operators"])


@pytest.mark.parametrize("name", [f"SECCOMP_FILTER_FLAG_{name}" for name in SECCOMP_FLAGS])
def test_a_flag_compiles_that_it_names_and_no_other(name: str) -> None:
    assert compiles(flags=[name]) == (name in SECCOMP["knownFlags"]) == (name in SECCOMP["supportedFlags"])


LITTLE_ENDIAN = ("X86", "X86_64", "X32", "ARM", "AARCH64", "MIPSEL", "MIPSEL64", "MIPSEL64N32", "PPC64LE", "RISCV64")


@pytest.mark.parametrize("name", [*seccomp_compile.ARCHITECTURES, "x86", "VAX", "NATIVE", "ALL"])
def test_an_architecture_compiles_that_it_names_and_no_other(name: str) -> None:
    full = f"SCMP_ARCH_{name}"
    try:
        compiled = compiles(architectures=[full])
    except Internal:  # libseccomp: one filter has one byte order
        compiled = name not in LITTLE_ENDIAN
    assert compiled == (full in SECCOMP["archs"])
    assert not compiles(architectures=[name])


def test_every_namespace_and_hook_that_it_names_is_read_and_no_other() -> None:
    for name in {*LINUX["namespaces"], *NAMESPACES}:
        assert features.takes({"namespaces": [{"type": name}]}) == (name in LINUX["namespaces"])
    assert not features.takes({"namespaces": [{"type": "syslog"}]})
    hook = [{"path": "/h"}]
    for name in features.HOOKS:
        config = parse_config({"ociVersion": "1.0.0", "hooks": {name: hook}})
        assert sum(len(getattr(config.hooks, slot)) for slot in config.hooks.__slots__) == 1
    assert len(features.HOOKS) == len(Hooks.__slots__)


@pytest.mark.parametrize("field", ["modes", "flags"])
def test_a_memory_policy_compiles_that_it_names_and_no_other(field: str) -> None:
    for name in (*LINUX["memoryPolicy"][field], "MPOL_NOPE"):
        nodes = "" if name in ("MPOL_DEFAULT", "MPOL_LOCAL") else "0"
        policy = {"mode": "MPOL_BIND", "nodes": nodes, **({"mode": name} if field == "modes" else {"flags": [name]})}
        assert features.takes({"memoryPolicy": policy}) == (name != "MPOL_NOPE")


def test_annotations_that_the_runtime_acts_on_are_named() -> None:
    code = "".join(path.read_text() for room in ("launch", "runtime") for path in (SOURCE / room).glob("*.py"))
    acted_on = {ANNOTATION, CONFIG_ANNOTATION}
    read = set(re.findall(r"annotations(?:\.get\(|\[)(\w+)", code)) - {"key"}
    assert read == {"CONFIG_ANNOTATION"}
    assert set(features.unsafe_annotations()) == acted_on


def test_what_the_parser_refuses_is_not_a_feature(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(obj: object) -> None:
        raise InvalidArgument("not supported yet")

    monkeypatch.setattr(features, "parse_config", refuse)
    linux = features.document()["linux"]
    assert linux["netDevices"] == {"enabled": False}
    assert linux["intelRdt"] == {"enabled": False, "schemata": False, "monitoring": False}
    monkeypatch.setattr(features, "parse_config", lambda obj: None)
    assert features.document()["linux"]["netDevices"] == {"enabled": True}
