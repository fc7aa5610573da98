"""What an OCI `resources` object means in cgroup files: lists of settings, made without touching a file.

A setting names a controller and the file and value to write.  Where the kernels differ in the name of a file,
it has several choices and the first file that exists is written.  The order is the order of writing: limits of
memory before those of memory and swap, `devices.deny a` before what is allowed again.

Sources: runtime-spec config-linux.md, "Control groups"; cgroup-v1/*.rst; cgroup-v2.rst; for the conversion of
shares and weights runc's and crun's, which agree.
"""

from __future__ import annotations

from corten.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from corten.spec.resources import BlockIO, Cpu, DeviceRule, Memory, Resources, ThrottleDevice

UNLIMITED = -1


class Setting:
    """One value for one cgroup file."""

    __slots__ = ("choices", "controller")

    def __init__(self, controller: str, file: str, value: int | str, *others: tuple[str, str]) -> None:
        self.controller = controller
        self.choices = ((file, str(value)), *others)

    def describe(self) -> str:
        """`memory.max 67108864`, with the controller in front where the file's name does not tell."""
        return " or ".join(f"{file} {value}" for file, value in self.choices)

    def __repr__(self) -> str:
        return f"<{self.controller}: {self.describe()}>"


# what every container may use, whatever the rules say (runtime-spec config-linux.md, "Default Devices", and
# mknod of anything, which does not open it): runc appends the same
DEFAULT_DEVICES = (
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
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


# version 1 -------------------------------------------------------------------------------------------------


def version_1(resources: Resources, memsw_now: int = UNLIMITED) -> list[Setting]:
    """The settings of a v1 (or hybrid) cgroup; `memsw_now` is the present limit of memory and swap in bytes."""
    settings = [
        *_memory_1(resources.memory, memsw_now),
        *_cpu_1(resources.cpu),
        *_pids(resources.pids_limit),
        *_block_io_1(resources.block_io),
        *_rdma(resources),
    ]
    for item in resources.hugepage_limits:
        settings.append(Setting("hugetlb", f"hugetlb.{item.page_size}.limit_in_bytes", item.limit))
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
    if memory.swappiness is not None and memory.swappiness <= 100:
        settings.append(Setting("memory", "memory.swappiness", memory.swappiness))
    if memory.disable_oom_killer:
        settings.append(Setting("memory", "memory.oom_control", 1))
    return settings


def _cpu_1(cpu: Cpu) -> list[Setting]:
    rows = (
        ("cpu", "cpu.rt_period_us", cpu.realtime_period),
        ("cpu", "cpu.rt_runtime_us", cpu.realtime_runtime),
        ("cpu", "cpu.shares", cpu.shares),
        ("cpu", "cpu.cfs_period_us", cpu.period),
        ("cpu", "cpu.cfs_quota_us", cpu.quota),
        ("cpu", "cpu.cfs_burst_us", cpu.burst),
        ("cpu", "cpu.idle", cpu.idle),
        ("cpuset", "cpuset.cpus", cpu.cpus),
        ("cpuset", "cpuset.mems", cpu.mems),
    )
    return [Setting(controller, file, value) for controller, file, value in rows if value]


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
    """The settings of a v2 cgroup; device rules are a program (`corten.sys.devicebpf`), not files."""
    settings = [
        *_memory_2(resources.memory),
        *_cpu_2(resources.cpu),
        *_pids(resources.pids_limit),
        *_block_io_2(resources.block_io),
        *_rdma(resources),
    ]
    for item in resources.hugepage_limits:
        settings.append(Setting("hugetlb", f"hugetlb.{item.page_size}.max", item.limit))
    for file, value in resources.unified.items():
        if "/" in file or "." not in file:
            raise InvalidArgument(f"linux.resources.unified: {file!r} is not the name of a cgroup file")
        settings += [Setting(file.partition(".")[0], file, line) for line in value.split("\n") if line]
    return settings


def _memory_2(memory: Memory) -> list[Setting]:
    settings = []
    swap = swap_alone(memory.limit, memory.swap)
    if memory.limit:
        settings.append(Setting("memory", "memory.max", _max(memory.limit)))
    if swap is not None:
        settings.append(Setting("memory", "memory.swap.max", _max(swap)))
    if memory.reservation:
        settings.append(Setting("memory", "memory.low", _max(memory.reservation)))
    return settings


def swap_alone(limit: int | None, memory_and_swap: int | None) -> int | None:
    """v2's limit of swap from OCI's limit of memory and swap together; None: leave it alone."""
    if not memory_and_swap:
        return UNLIMITED if limit == UNLIMITED else None
    if memory_and_swap < 0:
        return UNLIMITED
    if not limit or limit < 0:
        raise InvalidArgument("linux.resources.memory.swap: a limit of swap needs a limit of memory")
    if memory_and_swap < limit:
        raise InvalidArgument("linux.resources.memory.swap: memory and swap together are less than memory")
    return memory_and_swap - limit


def _cpu_2(cpu: Cpu) -> list[Setting]:
    settings = []
    if cpu.idle is not None:
        settings.append(Setting("cpu", "cpu.idle", cpu.idle))
    if cpu.shares:
        settings.append(Setting("cpu", "cpu.weight", weight_of_shares(cpu.shares)))
    if cpu.quota or cpu.period:
        quota = "max" if not cpu.quota or cpu.quota < 0 else str(cpu.quota)
        settings.append(Setting("cpu", "cpu.max", f"{quota} {cpu.period or 100000}"))
    if cpu.burst:
        settings.append(Setting("cpu", "cpu.max.burst", cpu.burst))
    if cpu.cpus:
        settings.append(Setting("cpuset", "cpuset.cpus", cpu.cpus))
    if cpu.mems:
        settings.append(Setting("cpuset", "cpuset.mems", cpu.mems))
    return settings


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
        settings.append(Setting("io", "io.bfq.weight", f"{item.major}:{item.minor} {item.weight}"))
    for (kind, unit), devices in _throttles(block_io):
        for device in devices:
            row = f"{device.major}:{device.minor} {kind[0]}{unit}={device.rate}"
            settings.append(Setting("io", "io.max", row))
    return settings


def _max(limit: int) -> str:
    return "max" if limit < 0 else str(limit)
