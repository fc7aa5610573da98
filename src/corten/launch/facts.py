"""What the launch plan needs to know of the host, as a value.

`compile` is pure: everything that depends on the machine arrives here.  Gathering is `corten.runtime.hostfacts`.
"""

from __future__ import annotations

from corten.errors import InvalidArgument
from corten.spec.reader import Reader, Value

CGROUP_MODES = ("v1", "hybrid", "v2")


class HostFacts(Value):
    """Kernel and host features that decide which plan is made.

    kernel              (major, minor)
    cgroup_mode         'v1', 'hybrid' (v1 controllers and an empty cgroup2 beside them) or 'v2'
    cgroup_v1           controller list as in /proc/self/cgroup ('cpu,cpuacct', 'name=systemd') → mount point
    cgroup_v2_mount     mount point of cgroup2, '' where there is none
    cap_last            highest capability number of the kernel
    cap_bounding        bit mask of the runtime's own bounding set: more cannot be given to a container
    apparmor, selinux   the module is active
    can_raise_rlimits   the runtime has CAP_SYS_RESOURCE
    has_kcore           /proc/kcore exists (then /dev/core is linked to it)
    narrow_affinity     the runtime may not run on every processor: what it starts shall all the same
    procfs_pidns        procfs can be mounted for another pid namespace (the option `pidns`, Linux 6.17)
    euid, egid          of the runtime: an ordinary user makes a user namespace first (`corten.launch.rootless`)
    in_user_namespace   the runtime runs in a user namespace other than the first
    resctrl             mount point of the resctrl file system, '' for none
    setgroups_denied    setgroups(2) is forbidden in the runtime's user namespace (user_namespaces(7))
    """

    __slots__ = (
        "apparmor", "can_raise_rlimits", "cap_bounding", "cap_last", "cgroup_mode", "cgroup_v1", "cgroup_v2_mount",
        "egid", "euid", "has_kcore", "in_user_namespace", "kernel", "narrow_affinity", "procfs_pidns", "resctrl",
        "selinux", "setgroups_denied",
    )  # fmt: skip

    def __init__(
        self,
        kernel: tuple[int, int],
        cgroup_mode: str,
        cgroup_v1: dict[str, str],
        cgroup_v2_mount: str,
        *,
        cap_last: int = 40,
        cap_bounding: int = (1 << 41) - 1,
        apparmor: bool = False,
        selinux: bool = False,
        can_raise_rlimits: bool = True,
        has_kcore: bool = True,
        procfs_pidns: bool = False,
        narrow_affinity: bool = False,
        euid: int = 0,
        egid: int = 0,
        in_user_namespace: bool = False,
        setgroups_denied: bool = False,
        resctrl: str = "",
    ) -> None:
        if cgroup_mode not in CGROUP_MODES:
            raise InvalidArgument(f"facts.cgroup_mode: unknown value {cgroup_mode!r}")
        self.kernel = kernel
        self.cgroup_mode = cgroup_mode
        self.cgroup_v1 = cgroup_v1
        self.cgroup_v2_mount = cgroup_v2_mount
        self.cap_last = cap_last
        self.cap_bounding = cap_bounding
        self.apparmor = apparmor
        self.selinux = selinux
        self.can_raise_rlimits = can_raise_rlimits
        self.has_kcore = has_kcore
        self.procfs_pidns = procfs_pidns
        self.narrow_affinity = narrow_affinity
        self.euid = euid
        self.egid = egid
        self.in_user_namespace = in_user_namespace
        self.setgroups_denied = setgroups_denied
        self.resctrl = resctrl


def is_rootless(facts: HostFacts) -> bool:
    """Who runs has no right over the machine: an ordinary user, or the root of a user namespace."""
    return facts.euid != 0 or facts.in_user_namespace


def facts_to_obj(facts: HostFacts) -> dict[str, object]:
    """A JSON-able object, field by field."""
    obj: dict[str, object] = {name: getattr(facts, name) for name in facts.__slots__}
    obj["kernel"] = list(facts.kernel)
    return obj


def facts_from_obj(obj: object) -> HostFacts:
    """The inverse of `facts_to_obj`; raises `InvalidArgument` naming the field."""
    reader = Reader.of(obj, "facts")
    major, minor = reader.integers("kernel")
    return HostFacts(
        (major, minor),
        reader.string("cgroup_mode", required=True),
        reader.string_map("cgroup_v1"),
        reader.string("cgroup_v2_mount"),
        cap_last=reader.integer("cap_last"),
        cap_bounding=reader.integer("cap_bounding"),
        apparmor=reader.boolean("apparmor"),
        selinux=reader.boolean("selinux"),
        can_raise_rlimits=reader.boolean("can_raise_rlimits"),
        has_kcore=reader.boolean("has_kcore"),
        procfs_pidns=reader.boolean("procfs_pidns"),
        narrow_affinity=reader.boolean("narrow_affinity"),
        euid=reader.integer("euid"),
        egid=reader.integer("egid"),
        in_user_namespace=reader.boolean("in_user_namespace"),
        setgroups_denied=reader.boolean("setgroups_denied"),
        resctrl=reader.string("resctrl"),
    )
