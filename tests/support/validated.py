"""What the OCI validation programs find that is not as they want it, and why: `reason` is the program's row of
docs/runtime-compatibility.md.  A program that is not here passes with both runtimes.
"""

from __future__ import annotations

from dataclasses import dataclass

PANICS = frozenset({"exit status 2"})
FAILS = frozenset({"exit status 1"})  # the program cannot create its container, and ends


@dataclass(frozen=True, slots=True)
class Expected:
    """The points that fail with corten-runtime and with Debian's runc, in the program's words.

    may_fail: those that depend on how fast the machine is, with either.
    """

    reason: str = ""
    ours: frozenset[str] = frozenset()
    theirs: frozenset[str] = frozenset()
    may_fail: frozenset[str] = frozenset()


def both(reason: str, *points: str) -> Expected:
    """The same points fail with both."""
    return Expected(reason, frozenset(points), frozenset(points))


def only_runc(reason: str, *points: str) -> Expected:
    """The program passes with corten-runtime."""
    return Expected(reason, frozenset(), frozenset(points))


KERNEL_MEMORY = (
    "no kernel writes these limits any more, and no runtime sets them: Linux 6 refuses a limit of kernel memory"
)
PASS = Expected()
EXPECTED = {
    "delete": both(
        "`delete` of a created container removes it, as runc does and engines rely on; of a running one it fails",
        "attempting to `delete` a container that is not `stopped` MUST generate an error",
        "attempting to `delete` a container that is not `stopped` MUST have no effect on the container",
    ),
    "hooks": both(
        "the program compares with words that its own hooks do not print (`post-start1` for `post-start1 called`)",
        "Hooks MUST be called in the listed order",
    ),
    "hooks_stdin": Expected(
        "prestart: config.md says `creating` while it runs; poststart: runc runs it in `create`",
        frozenset({'the state of the container MUST be passed to "prestart" hook over stdin'}),
        frozenset(
            f'the state of the container MUST be passed to "{name}" hook over stdin'
            for name in ("prestart", "poststart")
        ),
    ),
    "killsig": Expected(
        "passes, unless the program's signal comes before its shell has set the trap",
        may_fail=frozenset({"`kill` operation MUST send the specified signal to the container process"}),
    ),
    "linux_cgroups_blkio": both("weights: this kernel has no file for them while no disk uses bfq", *FAILS),
    "linux_cgroups_relative_blkio": both("weights, as above", *FAILS),
    "linux_cgroups_hugetlb": both("the controller hugetlb is not mounted here", *FAILS),
    "linux_cgroups_relative_hugetlb": both("the controller hugetlb is not mounted here", *FAILS),
    "linux_cgroups_network": both(
        "needs a second network interface, and net_cls and net_prio, not mounted here", *PANICS
    ),
    "linux_cgroups_relative_network": both("the controllers net_cls and net_prio are not mounted here", *FAILS),
    "linux_cgroups_memory": both(KERNEL_MEMORY, "memory kernel is set correctly", "memory kernelTCP is set correctly"),
    "linux_cgroups_relative_memory": both(
        KERNEL_MEMORY, "memory kernel is set correctly", "memory kernelTCP is set correctly"
    ),
    "linux_cgroups_devices": only_runc(
        "the program wants the rules in their order, runc writes them sorted", "devices c 10:229 rwm is set correctly"
    ),
    "linux_cgroups_relative_devices": only_runc(
        "the program wants the rules in their order, runc writes them sorted", "devices c 10:229 rwm is set correctly"
    ),
    "linux_mount_label": both("SELinux is not active here", *FAILS),
    "linux_ns_itype": Expected(
        "a container without a mount namespace is refused: with runc it changes its caller's mounts",
        frozenset({"cannot run validation tests: exit status 1"}),
    ),
    "linux_ns_path": Expected(
        "a mount namespace by path is refused: those who are in it would get this container's root",
        frozenset({"set mnt namespace by path"}),
    ),
    "linux_process_apparmor_profile": both("AppArmor is not active here", *FAILS),
    "linux_rootfs_propagation": only_runc(
        "runc needs a shared mount above the root for `shared`", "check root propagation: shared", *FAILS
    ),
    "linux_seccomp": only_runc(
        "the profile refuses getcwd, which runc itself calls after the filter is there",
        "seccomp action is added correctly",
        *FAILS,
    ),
    "mounts": Expected("a bind with `size=` and `mode=` is refused, as runc does since 1.2", FAILS),
    "misc_props": both(
        "the program does not put `runtimetest` into its container",
        "implementations that are reading/processing this configuration file MUST NOT generate an error"
        " if they encounter an unknown annotation key",
    ),
    "pidfile": Expected(
        "passes when `true`, which the program kills, has not ended by then",
        may_fail=frozenset({"create with '--pid-file' option works"}),
    ),
    "poststart": Expected(
        "runc runs poststart hooks in `create`; ours run when the process is executed, and may write before it does",
        theirs=frozenset({"The post-start hooks MUST be called before the `start` operation returns"}),
        may_fail=frozenset({"The post-start hooks MUST be called after the user-specified process is executed"}),
    ),
    "poststart_fail": both(
        "since runtime-spec 1.2.1 a poststart hook that fails ends the container, as it does with runc",
        "if any poststart hook fails, the runtime MUST log a warning, but the remaining hooks and lifecycle continue"
        " as if the hook had succeeded",
    ),
    "poststop_fail": only_runc(
        "runc runs no further hook after one that fails",
        "if any poststop hook fails, the runtime MUST log a warning, but the remaining hooks and lifecycle continue"
        " as if the hook had succeeded",
    ),
    "prestart": both(
        "config.md: prestart hooks run in `create`",
        "Pre-start hooks MUST be called after the `start` operation is called",
    ),
    "process_capabilities": Expected(
        "this machine has no CAP_SYS_RESOURCE: left out with a warning; runc fails",
        frozenset(
            f"expected {name} capability CAP_SYS_RESOURCE set"
            for name in ("bounding", "effective", "inheritable", "permitted", "ambient")
        ),
        FAILS,
    ),
    "process_capabilities_fail": both(
        "since runtime-spec 1.1 an unknown capability is a warning, as it is with runc", *FAILS
    ),
    "process_rlimits": both(
        "the program in the container is Go's, which raises its own soft limit of files",
        "has expected soft RLIMIT_NOFILE",
    ),
    "start": both(
        "a configuration without `process` is refused by `create`; the program wants `start` to", "exit status 1"
    ),
}
