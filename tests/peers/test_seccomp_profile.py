"""Docker's default seccomp profile, rule by rule, beside the one that `corten.engine.seccomp` makes.

The reference is moby's own default.json: that of dockerd 26.1, which is in Debian's golang-github-docker-docker-dev,
and the newest one of `../shared/data`, where that folder is beside the checkout.  Its conditions are resolved here a
second time, after moby's profiles/seccomp/seccomp_linux.go, and what is left is compared for each system call.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from corten.engine import defaults
from corten.engine.seccomp import Host, default_profile, resolve, resolved_default
from support import paths, peers, summary

NEWEST = paths.REPOSITORY.parent / "shared" / "data" / "seccomp-default.json"
INSIDE = "usr/share/gocode/src/github.com/docker/docker/profiles/seccomp/default.json"

# uname -m: (libseccomp's name, which conditions use, libseccomp's constant)
MACHINES = {
    "x86_64": ("amd64", "SCMP_ARCH_X86_64"),
    "i686": ("x86", "SCMP_ARCH_X86"),
    "aarch64": ("arm64", "SCMP_ARCH_AARCH64"),
    "armv7l": ("arm", "SCMP_ARCH_ARM"),
    "mips64": ("mips64", "SCMP_ARCH_MIPS64"),
    "ppc64le": ("ppc64le", "SCMP_ARCH_PPC64LE"),
    "s390x": ("s390x", "SCMP_ARCH_S390X"),
    "riscv64": ("riscv64", "SCMP_ARCH_RISCV64"),
    "loongarch64": ("loongarch64", "SCMP_ARCH_LOONGARCH64"),
}
KERNELS = ((3, 10), (4, 7), (4, 8), (5, 11), (6, 18))

# What moby added after 26.1: the newest profile has it, the one of Debian 13 has not.
SINCE_26 = frozenset(
    ("getxattrat", "listmount", "listxattrat", "mseal", "removexattrat", "riscv_hwprobe", "setxattrat", "statmount")
) | {"uretprobe", "lsm_get_self_attr", "lsm_list_modules", "lsm_set_self_attr"}
ANY_BUT_VSOCK = ({"index": 0, "value": 40, "op": "SCMP_CMP_NE"},)  # 26.1; since then AF_ALG (38) is refused as well
SOCKETS = (
    ({"index": 0, "value": 38, "op": "SCMP_CMP_LT"},),
    ({"index": 0, "value": 39, "op": "SCMP_CMP_EQ"},),
    ({"index": 0, "value": 40, "op": "SCMP_CMP_GT"},),
)

Rule = tuple[str, int | None, str]  # action, errno, the arguments as JSON
Rules = dict[str, set[Rule]]  # system call → its rules


def reference(source: str) -> Any:
    """A profile in Docker's form."""
    path = NEWEST if source == "newest" else peers.tree("trixie").root / INSIDE
    return json.loads(path.read_text())


SOURCES = ["of 26.1", *(["newest"] if NEWEST.exists() else [])]


def capability_sets(profile: Any) -> list[frozenset[str]]:
    """None, the default 14, all that a condition names, and each of these on top of the default."""
    named = {
        name
        for rule in profile["syscalls"]
        for condition in ("includes", "excludes")
        for name in (rule.get(condition) or {}).get("caps") or ()
    }
    default = frozenset(defaults.CAPABILITIES)
    return [frozenset(), default, default | named, *(default | {name} for name in sorted(named))]


def expected(profile: Any, host: Host) -> Rules:
    """The rules of a reference that hold on a host."""
    return by_call(rule for rule in profile["syscalls"] if holds(rule, host))


def holds(rule: Mapping[str, Any], host: Host) -> bool:
    """seccomp_linux.go, setupSeccomp: one match of `excludes` drops a rule, `includes` must match in all its parts."""
    name = MACHINES[host.machine][0]
    no, yes = rule.get("excludes") or {}, rule.get("includes") or {}
    dropped = (
        name in (no.get("arches") or ())
        or bool(host.caps.intersection(no.get("caps") or ()))
        or ("minKernel" in no and host.kernel >= kernel(no["minKernel"]))
    )
    return not dropped and (
        name in (yes.get("arches") or [name])
        and host.caps.issuperset(yes.get("caps") or ())
        and ("minKernel" not in yes or host.kernel >= kernel(yes["minKernel"]))
    )


def kernel(text: str) -> tuple[int, int]:
    major, minor = text.split(".")
    return int(major), int(minor)


def by_call(rules: Iterable[Mapping[str, Any]]) -> Rules:
    found: Rules = {}
    for rule in rules:
        arguments = [
            {key: value for key, value in one.items() if value or key != "valueTwo"} for one in rule.get("args") or ()
        ]
        for name in rule.get("names") or [rule["name"]]:
            one = (rule["action"], rule.get("errnoRet"), json.dumps(arguments, sort_keys=True))
            found.setdefault(name, set()).add(one)
    return found


def as_of_26(rules: Rules) -> Rules:
    """The newest rules without what came after 26.1."""
    found = {name: set(one) for name, one in rules.items() if name not in SINCE_26}
    for arguments in SOCKETS:
        found["socket"].remove(("SCMP_ACT_ALLOW", None, json.dumps(arguments, sort_keys=True)))
    found["socket"].add(("SCMP_ACT_ALLOW", None, json.dumps(ANY_BUT_VSOCK, sort_keys=True)))
    return found


@pytest.mark.parametrize("source", SOURCES)
def test_every_rule_of_the_default_profile_is_dockers(source: str) -> None:
    profile = reference(source)
    hosts = [Host(*one) for one in itertools.product(MACHINES, KERNELS, capability_sets(profile))]
    compared = 0
    for host in hosts:
        ours = by_call(resolve(default_profile(), host)["syscalls"])
        theirs = expected(profile, host)
        if source != "newest":
            ours = as_of_26(ours)
        differ = {name for name in ours | theirs if ours.get(name) != theirs.get(name)}
        assert not differ, f"{host}: " + str({name: (ours.get(name), theirs.get(name)) for name in differ})
        compared += sum(len(rules) for rules in theirs.values())
    assert compared > 300 * len(hosts)
    summary.add("seccomp", f"default profile {source}: {compared} rules on {len(hosts)} kinds of host agree")


@pytest.mark.parametrize("source", SOURCES)
def test_defaults_and_architectures_are_dockers(source: str) -> None:
    profile = reference(source)
    sub = {one["architecture"]: one["subArchitectures"] or [] for one in profile["archMap"]}
    for machine, (_, native) in MACHINES.items():
        if native == "SCMP_ARCH_LOONGARCH64" and source != "newest":
            continue  # came after 26.1
        ours = json.loads(resolved_default(Host(machine, (6, 18), frozenset())))
        assert ours["defaultAction"] == profile["defaultAction"]
        assert ours["defaultErrnoRet"] == profile["defaultErrnoRet"]
        assert ours["architectures"] == [native, *sub.get(native, [])], machine  # none named is the native one


def test_a_call_more_or_less_would_be_seen() -> None:
    profile = reference("of 26.1")
    host = Host("x86_64", (6, 18), frozenset(defaults.CAPABILITIES))
    whole = expected(profile, host)
    profile["syscalls"][0]["names"].remove("accept4")
    profile["syscalls"].append({"names": ["bpf"], "action": "SCMP_ACT_ALLOW"})
    changed = expected(profile, host)
    assert {name for name in whole | changed if whole.get(name) != changed.get(name)} == {"accept4", "bpf"}
