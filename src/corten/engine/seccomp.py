"""Docker's seccomp profiles → `linux.seccomp` of an OCI config.

A profile in Docker's form (the built-in one, or a file given with `--security-opt seccomp=`) has conditions
on rules: `includes` and `excludes` by capability, architecture and least kernel.  They are resolved here,
when config.json is made, so that the runtime sees plain rules (runtime-spec config-linux.md, "Seccomp").
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from corten.engine.seccomp_profile import DEFAULT_RULES
from corten.errors import InvalidArgument
from corten.launch.seccomp import filter_flags
from corten.launch.seccomp_compile import compile_profile
from corten.runtime.effective import DOORS, named, of_any_version, twins, with_rules

BOTH: Final = "both '{}' and '{}' are specified in the seccomp profile, use either one"

# uname -m → (libseccomp's name, which profiles use; the native libseccomp architecture; the others run beside it)
ARCHES: Final[dict[str, tuple[str, str, tuple[str, ...]]]] = {
    "x86_64": ("amd64", "SCMP_ARCH_X86_64", ("SCMP_ARCH_X86", "SCMP_ARCH_X32")),
    "i686": ("x86", "SCMP_ARCH_X86", ()),
    "aarch64": ("arm64", "SCMP_ARCH_AARCH64", ("SCMP_ARCH_ARM",)),
    "armv7l": ("arm", "SCMP_ARCH_ARM", ()),
    "mips64": ("mips64", "SCMP_ARCH_MIPS64", ("SCMP_ARCH_MIPS", "SCMP_ARCH_MIPS64N32")),
    "ppc64le": ("ppc64le", "SCMP_ARCH_PPC64LE", ()),
    "s390x": ("s390x", "SCMP_ARCH_S390X", ("SCMP_ARCH_S390",)),
    "riscv64": ("riscv64", "SCMP_ARCH_RISCV64", ()),
    "loongarch64": ("loong64", "SCMP_ARCH_LOONGARCH64", ()),
}

OPPOSITE: Final = {
    **{"SCMP_CMP_EQ": "SCMP_CMP_NE", "SCMP_CMP_NE": "SCMP_CMP_EQ", "SCMP_CMP_LT": "SCMP_CMP_GE"},
    **{"SCMP_CMP_GE": "SCMP_CMP_LT", "SCMP_CMP_LE": "SCMP_CMP_GT", "SCMP_CMP_GT": "SCMP_CMP_LE"},
}


class Condition(msgspec.Struct, frozen=True, rename="camel"):
    """When a rule applies (`includes`) or does not (`excludes`); an empty part asks for nothing."""

    caps: list[str] | None = None
    arches: list[str] | None = None
    min_kernel: str = ""


class Argument(msgspec.Struct, frozen=True, rename="camel"):
    """One comparison of a system call's argument, seccomp_rule_add(3)."""

    index: int
    value: int
    op: str
    value_two: int = 0


class Rule(msgspec.Struct, frozen=True, rename="camel"):
    """One entry of `syscalls` in Docker's form; `name` is the form of before 1.12."""

    action: str
    names: list[str] | None = None
    name: str = ""
    args: list[Argument] | None = None
    errno_ret: int | None = None
    comment: str = ""
    includes: Condition | None = None
    excludes: Condition | None = None


class ArchMap(msgspec.Struct, frozen=True, rename="camel"):
    architecture: str
    sub_architectures: list[str] | None = None


class Profile(msgspec.Struct, frozen=True, rename="camel"):
    """A profile as a user writes it for `--security-opt seccomp=FILE` (the CLI sends the file's text)."""

    default_action: str
    default_errno_ret: int | None = None
    architectures: list[str] | None = None
    arch_map: list[ArchMap] | None = None
    flags: list[str] | None = None
    listener_path: str = ""
    listener_metadata: str = ""
    syscalls: list[Rule] | None = None


class Host(msgspec.Struct, frozen=True):
    """What conditions ask about.  machine: uname -m; kernel: (major, minor); caps: the bounding set."""

    machine: str
    kernel: tuple[int, int]
    caps: frozenset[str]


def parse_profile(text: str) -> Profile:
    """A user's profile; raises InvalidArgument with Docker's words."""
    try:
        profile = msgspec.json.decode(text, type=Profile)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidArgument(f"Decoding seccomp profile failed: {error}") from error
    if profile.architectures and profile.arch_map:
        raise InvalidArgument(BOTH.format("architectures", "archMap"))
    return profile


@functools.cache
def default_profile() -> Profile:
    """The built-in profile: Docker's list of allowed calls."""
    rules = msgspec.convert(DEFAULT_RULES, type=list[Rule])
    return Profile(default_action="SCMP_ACT_ERRNO", default_errno_ret=1, syscalls=rules)


def _kernel(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    try:
        return int(major), int(minor.split(".")[0] or 0)
    except ValueError as error:
        raise InvalidArgument(f"invalid kernel version in seccomp profile: {text!r}") from error


def _applies(rule: Rule, host: Host, arch: str) -> bool:
    no, yes = rule.excludes, rule.includes
    if no is not None and (
        any(cap in host.caps for cap in no.caps or ())
        or arch in (no.arches or ())
        or (no.min_kernel and host.kernel >= _kernel(no.min_kernel))
    ):
        return False
    return yes is None or (
        all(cap in host.caps for cap in yes.caps or ())
        and (not yes.arches or arch in yes.arches)
        and (not yes.min_kernel or host.kernel >= _kernel(yes.min_kernel))
    )


def _syscall(rule: Rule) -> dict[str, Any]:
    if rule.name and rule.names:
        raise InvalidArgument(BOTH.format("name", "names"))
    out: dict[str, Any] = {"names": list(rule.names or [rule.name]), "action": rule.action}
    if rule.errno_ret is not None:
        out["errnoRet"] = rule.errno_ret
    if rule.args:
        out["args"] = [_argument(argument) for argument in rule.args]
    return out


def _argument(argument: Argument) -> dict[str, Any]:
    out: dict[str, Any] = {"index": argument.index, "value": argument.value, "op": argument.op}
    if argument.value_two:
        out["valueTwo"] = argument.value_two
    return out


def _architectures(profile: Profile, host: Host) -> list[str]:
    if profile.architectures:
        return list(profile.architectures)
    known = ARCHES.get(host.machine)
    if known is None:
        return []
    if profile.arch_map is None:
        return [known[1], *known[2]]
    for entry in profile.arch_map:
        if entry.architecture == known[1]:
            return [entry.architecture, *(entry.sub_architectures or ())]
    return []


def resolve(profile: Profile, host: Host) -> dict[str, Any]:
    """The OCI `linux.seccomp` object for this host and these capabilities.  Pure."""
    arch = ARCHES.get(host.machine, (host.machine, "", ()))[0]
    out: dict[str, Any] = {"defaultAction": profile.default_action}
    if profile.default_errno_ret is not None:
        out["defaultErrnoRet"] = profile.default_errno_ret
    if architectures := _architectures(profile, host):
        out["architectures"] = architectures
    if profile.flags:
        out["flags"] = list(profile.flags)
    if profile.listener_path:
        out["listenerPath"] = profile.listener_path
        out["listenerMetadata"] = profile.listener_metadata
    out["syscalls"] = [_syscall(rule) for rule in profile.syscalls or () if _applies(rule, host, arch)]
    return out


@functools.lru_cache(maxsize=64)
def resolved_default(host: Host, rules: bytes = b"") -> bytes:
    """`resolve(default_profile(), host)` as JSON text, kept: every default container has the same one.

    rules: the node's, as JSON text; they take the place of the profile's own for the calls that they name.
    """
    profile = resolve(default_profile(), host)
    if rules:
        profile = overridden(profile, msgspec.json.decode(rules))
    return msgspec.json.encode(profile)


# The node's rules


def overridden(profile: dict[str, Any], rules: list[dict[str, Any]]) -> dict[str, Any]:
    """A resolved profile with `rules`, which `check_overrides` took, in place of its own for the calls they name.

    A rule with a condition leaves the rest of the call as it was, by the opposite condition: of a rule without one and
    one with, libseccomp keeps the first alone.  For the same reason socketcall and ipc, which the profile allows whole,
    go with the first call of theirs that a rule names: libseccomp makes the others of them, each by its number.  A twin
    of a call goes with it.
    """
    said = named({"syscalls": rules})
    doors = {door for door, behind in DOORS.items() if said & behind}
    calls = said | doors | twins(said)
    kept, rest = [], []
    for own in profile["syscalls"]:
        for rule in rules:
            both = [name for name in own["names"] if name in rule["names"]]
            if both and rule.get("args"):
                rest += [{**own, "names": both, "args": [other]} for other in _opposite(rule["args"][0])]
        if names := [name for name in own["names"] if name not in calls]:
            kept.append({**own, "names": names})
    if "ipc" in doors - said and "ipc" in named(profile):
        rest += of_any_version(kept)
    return with_rules({**profile, "syscalls": [*kept, *rest]}, rules)


def _opposite(condition: dict[str, Any]) -> list[dict[str, Any]]:
    """The conditions of which one or more are true where this one is not: of a mask, one for each bit, turned over."""
    if condition["op"] in OPPOSITE:
        return [{**condition, "op": OPPOSITE[condition["op"]]}]
    mask, wanted = condition["value"], condition.get("valueTwo", 0)
    bits = [1 << place for place in range(mask.bit_length()) if mask >> place & 1]
    return [{**condition, "value": bit, "valueTwo": ~wanted & bit} for bit in bits]


def check_overrides(rules: Sequence[dict[str, Any]], where: str) -> None:
    """Refuses, by InvalidArgument naming the rule, what libseccomp does not take and what would not hold."""
    if not rules:
        return
    alone: dict[str, object] = {"defaultAction": "SCMP_ACT_KILL_PROCESS", "syscalls": list(rules)}
    try:
        filter_flags(alone)
        compile_profile(alone)
    except InvalidArgument as error:
        text = error.text.replace("linux.seccomp.syscalls", where)
        raise InvalidArgument(text if text.startswith(where) else f"{where}: {text}") from error
    known = named({"syscalls": DEFAULT_RULES})
    conditional = named({"syscalls": [rule for rule in DEFAULT_RULES if rule.get("args")]})
    times = Counter(name for rule in rules for name in rule["names"])
    for index, rule in enumerate(rules):
        for name in rule["names"] if rule.get("args") else ():
            if times[name] > 1:
                raise InvalidArgument(f"{where}[{index}].args: {name} is in another rule as well")
            if name in conditional:
                raise InvalidArgument(f"{where}[{index}].args: the built-in profile has conditions for {name} already")
            if name in known and len(rule["args"]) != 1:
                raise InvalidArgument(f"{where}[{index}].args: {name} takes one condition")
