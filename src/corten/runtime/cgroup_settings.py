"""What an OCI `resources` object means in cgroup files: lists of settings, made without touching a file.

A setting names a controller and the file and value to write.  Where the kernels differ in the name of a file,
it has several choices and the first file that exists is written.  The order is the order of writing: limits of
memory before those of memory and swap, `devices.deny a` before what is allowed again.

What a host cannot do is refused, as runc refuses it, or, where runc passes over it, told by `warnings`.

Sources: runtime-spec config-linux.md, "Control groups"; cgroup-v1/*.rst; cgroup-v2.rst; for the conversion of
shares and weights runc's and crun's, which agree.
"""

from __future__ import annotations

from corten.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from corten.spec.resources import BlockIO, Cpu, DeviceRule, HugepageLimit, Memory, Resources, ThrottleDevice

UNLIMITED = -1
NO_UNIFIED = "invalid configuration: cannot use unified on cgroup v1"
SHARES_LOW, SHARES_HIGH = 2, 262144  # of v1's cpu.shares; the kernel takes others for the nearest of these
SWAPPINESS_NOT_GIVEN = ((1 << 64) - 1, UNLIMITED)  # Docker's -1, as the specification's unsigned number


class Setting:
    """One value for one cgroup file.

    optional   a kernel without the file needs no such value
    again      refused with EINVAL it is tried once more behind the others: what it must fit is among them
    unified    the value is `linux.resources.unified`'s
    """

    __slots__ = ("again", "choices", "controller", "optional", "unified")

    def __init__(
        self,
        controller: str,
        file: str,
        value: int | str,
        *others: tuple[str, str],
        optional: bool = False,
        again: bool = False,
        unified: bool = False,
    ) -> None:
        self.controller = controller
        self.choices = ((file, str(value)), *others)
        self.optional = optional
        self.again = again
        self.unified = unified

    def describe(self) -> str:
        """`memory.max 67108864`, with the controller in front where the file's name does not tell."""
        return " or ".join(f"{file} {value}" for file, value in self.choices)

    def __repr__(self) -> str:
        return f"<{self.controller}: {self.describe()}>"


# what every container may use, whatever the rules say (runtime-spec config-linux.md, "Default Devices", and
# mknod of anything, which does not open it), and the tun device: runc's list
DEFAULT_DEVICES = (
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:2 rwm",
    "c 10:200 rwm",
    "c 136:* rwm",
)


class DevicePolicy:
    """Device rules in their normal form: a default, and the exceptions to it in the order of the rules."""

    __slots__ = ("allows_by_default", "exceptions")

    def __init__(self, *, allows_by_default: bool, exceptions: list[tuple[bool, str]]) -> None:
        self.allows_by_default = allows_by_default
        self.exceptions = exceptions


def device_policy(rules: Iterable[DeviceRule]) -> DevicePolicy:
    """The policy of OCI rules: denied unless allowed, with the default devices at the end."""
    policy = DevicePolicy(allows_by_default=False, exceptions=[])
    for rule in rules:
        if rule.type == "a":
            policy = DevicePolicy(allows_by_default=rule.allow, exceptions=[])
            continue
        major = "*" if rule.major is None else str(rule.major)
        minor = "*" if rule.minor is None else str(rule.minor)
        policy.exceptions.append((rule.allow, f"{rule.type} {major}:{minor} {rule.access}"))
    if not policy.allows_by_default:
        policy.exceptions += [(True, text) for text in DEFAULT_DEVICES]
    return policy


def warnings(resources: Resources, mode: str) -> list[str]:
    """What is given and has no meaning in a host of that layout (`HostFacts.cgroup_mode`), a sentence each."""
    memory, block_io = resources.memory, resources.block_io
    texts = []
    if memory.kernel is not None or memory.kernel_tcp is not None:
        texts.append("Kernel memory settings are ignored and will be removed")  # runc's words
    if memory.use_hierarchy is False:
        texts.append("memory.useHierarchy is ignored: the kernel's accounting is always hierarchical")
    if mode != "v2":
        return texts
    if memory.swappiness is not None and memory.swappiness not in SWAPPINESS_NOT_GIVEN:
        texts.append("memory.swappiness is ignored: cgroup v2 has none")
    if memory.disable_oom_killer:
        texts.append("memory.disableOOMKiller is ignored: cgroup v2 cannot do without it")
    if block_io.leaf_weight or any(item.leaf_weight for item in block_io.weight_devices):
        texts.append("blockIO.leafWeight is ignored: cgroup v2 has none")
    return texts


# version 1 -------------------------------------------------------------------------------------------------


def version_1(resources: Resources, memsw_now: int = UNLIMITED) -> list[Setting]:
    """The settings of a v1 (or hybrid) cgroup; `memsw_now` is the present limit of memory and swap in bytes.

    Raises InvalidArgument, in runc's words, for what such a cgroup cannot do.
    """
    if resources.unified:
        raise InvalidArgument(NO_UNIFIED)
    settings = [
        *_memory_1(resources.memory, memsw_now),
        *_cpu_1(resources.cpu),
        *_pids(resources.pids_limit),
        *_block_io_1(resources.block_io),
        *_rdma(resources),
    ]
    for item in resources.hugepage_limits:
        settings += _hugetlb(item, "limit_in_bytes")
    if resources.network.class_id:
        settings.append(Setting("net_cls", "net_cls.classid", resources.network.class_id))
    for name, priority in resources.network.priorities:
        settings.append(Setting("net_prio", "net_prio.ifpriomap", f"{name} {priority}"))
    return settings


def devices_1(policy: DevicePolicy) -> list[Setting]:
    """A device policy as writes to devices.allow and devices.deny of a new cgroup."""
    everything = "devices.allow" if policy.allows_by_default else "devices.deny"
    settings = [Setting("devices", everything, "a")]
    for allow, text in policy.exceptions:
        settings.append(Setting("devices", "devices.allow" if allow else "devices.deny", text))
    return settings


def _memory_1(memory: Memory, memsw_now: int) -> list[Setting]:
    limit, swap = memory.limit, memory.swap
    if limit == UNLIMITED and not swap:
        swap = UNLIMITED  # no limit of both may stay below the new one
    settings = []
    if limit:
        settings.append(Setting("memory", "memory.limit_in_bytes", limit))
    if swap:
        settings.append(Setting("memory", "memory.memsw.limit_in_bytes", swap))
    grows = swap == UNLIMITED or (swap is not None and 0 <= memsw_now < swap)
    if grows and memsw_now != UNLIMITED:
        settings.reverse()  # the kernel keeps memsw >= memory at every moment
    if memory.reservation:
        settings.append(Setting("memory", "memory.soft_limit_in_bytes", memory.reservation))
    if memory.swappiness is not None and memory.swappiness not in SWAPPINESS_NOT_GIVEN:
        if memory.swappiness > 100:
            raise InvalidArgument(f"invalid memory swappiness value: {memory.swappiness} (valid range is 0-100)")
        settings.append(Setting("memory", "memory.swappiness", memory.swappiness))
    if memory.disable_oom_killer:
        settings.append(Setting("memory", "memory.oom_control", 1))
    return settings


def _cpu_1(cpu: Cpu) -> list[Setting]:
    if cpu.shares and not SHARES_LOW <= cpu.shares <= SHARES_HIGH:
        bound = ("minimum", SHARES_LOW) if cpu.shares < SHARES_LOW else ("maximum", SHARES_HIGH)
        raise InvalidArgument("the {} allowed cpu-shares is {}".format(*bound))
    settings = []
    for file, value in (("cpu.rt_period_us", cpu.realtime_period), ("cpu.rt_runtime_us", cpu.realtime_runtime)):
        if value:
            settings.append(Setting("cpu", file, value, again=True))
    if cpu.shares:
        settings.append(Setting("cpu", "cpu.shares", cpu.shares))
    if cpu.burst is not None:
        settings.append(Setting("cpu", "cpu.cfs_burst_us", cpu.burst, again=True))
    if cpu.period:
        settings.append(Setting("cpu", "cpu.cfs_period_us", cpu.period, again=True))
    if cpu.quota:
        settings.append(Setting("cpu", "cpu.cfs_quota_us", cpu.quota))
    if cpu.idle is not None:
        settings.append(Setting("cpu", "cpu.idle", cpu.idle))
    return settings + _cpuset(cpu)


def _cpuset(cpu: Cpu) -> list[Setting]:
    rows = (("cpuset.cpus", cpu.cpus), ("cpuset.mems", cpu.mems))
    return [Setting("cpuset", file, value) for file, value in rows if value]


def _hugetlb(item: HugepageLimit, suffix: str) -> list[Setting]:
    """The limit of what is used and, since Linux 5.7, of what is reserved (config-linux.md, "Huge page limits")."""
    prefix = f"hugetlb.{item.page_size}"
    reserved = Setting("hugetlb", f"{prefix}.rsvd.{suffix}", item.limit, optional=True)
    return [Setting("hugetlb", f"{prefix}.{suffix}", item.limit), reserved]


def _pids(limit: int | None) -> list[Setting]:
    if not limit:
        return []
    return [Setting("pids", "pids.max", "max" if limit < 0 else limit)]


def _rdma(resources: Resources) -> list[Setting]:
    settings = []
    for device, (handles, objects) in resources.rdma.items():
        counts = (("hca_handle", handles), ("hca_object", objects))
        limits = " ".join(f"{name}={count}" for name, count in counts if count is not None)
        settings.append(Setting("rdma", "rdma.max", f"{device} {limits}"))
    return settings


def _block_io_1(block_io: BlockIO) -> list[Setting]:
    settings = []
    if block_io.weight:
        bfq = ("blkio.bfq.weight", str(block_io.weight))
        settings.append(Setting("blkio", "blkio.weight", block_io.weight, bfq))
    if block_io.leaf_weight:
        settings.append(Setting("blkio", "blkio.leaf_weight", block_io.leaf_weight))
    for item in block_io.weight_devices:
        if item.weight:
            row = f"{item.major}:{item.minor} {item.weight}"
            settings.append(Setting("blkio", "blkio.weight_device", row, ("blkio.bfq.weight_device", row)))
        if item.leaf_weight:
            row = f"{item.major}:{item.minor} {item.leaf_weight}"
            settings.append(Setting("blkio", "blkio.leaf_weight_device", row))
    for (kind, unit), devices in _throttles(block_io):
        for device in devices:
            row = f"{device.major}:{device.minor} {device.rate}"
            settings.append(Setting("blkio", f"blkio.throttle.{kind}_{unit}_device", row))
    return settings


def _throttles(block_io: BlockIO) -> tuple[tuple[tuple[str, str], tuple[ThrottleDevice, ...]], ...]:
    return (
        (("read", "bps"), block_io.throttle_read_bps),
        (("write", "bps"), block_io.throttle_write_bps),
        (("read", "iops"), block_io.throttle_read_iops),
        (("write", "iops"), block_io.throttle_write_iops),
    )


# version 2 -------------------------------------------------------------------------------------------------


def version_2(resources: Resources) -> list[Setting]:
    """The settings of a v2 cgroup; device rules are a program (`corten.sys.devicebpf`), not files.

    Raises InvalidArgument for what such a cgroup cannot do.
    """
    if resources.network.class_id or resources.network.priorities:
        raise InvalidArgument("linux.resources.network: cgroup v2 has neither net_cls nor net_prio")
    settings = [
        *_memory_2(resources.memory),
        *_cpu_2(resources.cpu),
        *_pids(resources.pids_limit),
        *_block_io_2(resources.block_io),
        *_rdma(resources),
    ]
    for item in resources.hugepage_limits:
        settings += _hugetlb(item, "max")
    for file, value in resources.unified.items():
        if "/" in file:
            raise InvalidArgument(f'unified resource "{file}" must be a file name (no slashes)')
        controller, dot, _ = file.partition(".")
        if not dot:
            raise InvalidArgument(f'unified resource "{file}" must be in the form CONTROLLER.PARAMETER')
        settings += [Setting(controller, file, line, unified=True) for line in value.split("\n") if line]
    return settings


def _memory_2(memory: Memory) -> list[Setting]:
    settings = []
    swap = swap_alone(memory.limit, memory.swap)
    if memory.limit:
        settings.append(Setting("memory", "memory.max", _max(memory.limit)))
    if swap is not None:  # without the kernel's swap accounting there is no file, and nothing to swap to
        settings.append(Setting("memory", "memory.swap.max", _max(swap), optional=swap <= 0))
    if memory.reservation:
        settings.append(Setting("memory", "memory.low", _max(memory.reservation)))
    return settings


def swap_alone(limit: int | None, memory_and_swap: int | None) -> int | None:
    """v2's limit of swap from OCI's limit of memory and swap together; None: leave it alone."""
    if not memory_and_swap:
        return UNLIMITED if limit == UNLIMITED else None
    if memory_and_swap < 0:
        return UNLIMITED
    if not limit:
        raise InvalidArgument("unable to set swap limit without memory limit")
    if limit < 0:
        return memory_and_swap  # of unlimited memory nothing can be subtracted
    if memory_and_swap < limit:
        raise InvalidArgument("memory+swap limit should be >= memory limit")
    return memory_and_swap - limit


def _cpu_2(cpu: Cpu) -> list[Setting]:
    if cpu.realtime_runtime or cpu.realtime_period:
        raise InvalidArgument("linux.resources.cpu: cgroup v2 has no realtimeRuntime and no realtimePeriod")
    settings = []
    if cpu.idle is not None:
        settings.append(Setting("cpu", "cpu.idle", cpu.idle))
    if cpu.shares:
        settings.append(Setting("cpu", "cpu.weight", weight_of_shares(cpu.shares)))
    if cpu.burst is not None:
        settings.append(Setting("cpu", "cpu.max.burst", cpu.burst, again=True))
    if cpu.quota or cpu.period:
        quota = "max" if not cpu.quota or cpu.quota < 0 else str(cpu.quota)
        settings.append(Setting("cpu", "cpu.max", f"{quota} {cpu.period or 100000}"))
    return settings + _cpuset(cpu)


def weight_of_shares(shares: int) -> int:
    """cpu.weight (1 to 10000) of v1's cpu.shares (2 to 262144)."""
    bounded = min(max(shares, 2), 262144)
    return 1 + (bounded - 2) * 9999 // 262142


def weight_of_blkio(weight: int) -> int:
    """io.weight (1 to 10000) of v1's blkio.weight (10 to 1000)."""
    return 1 + (weight - 10) * 9999 // 990


def _block_io_2(block_io: BlockIO) -> list[Setting]:
    settings = []
    if block_io.weight:
        plain = ("io.weight", f"default {weight_of_blkio(block_io.weight)}")
        settings.append(Setting("io", "io.bfq.weight", block_io.weight, plain))
    for item in block_io.weight_devices:
        if item.weight:
            plain = ("io.weight", f"{item.major}:{item.minor} {weight_of_blkio(item.weight)}")
            settings.append(Setting("io", "io.bfq.weight", f"{item.major}:{item.minor} {item.weight}", plain))
    for (kind, unit), devices in _throttles(block_io):
        for device in devices:
            row = f"{device.major}:{device.minor} {kind[0]}{unit}={device.rate}"
            settings.append(Setting("io", "io.max", row))
    return settings


def _max(limit: int) -> str:
    return "max" if limit < 0 else str(limit)
