"""Resource limits of a container: `linux.resources` of a bundle, and the body of `update`.

Rules: runtime-spec config-linux.md, "Control groups".  None means "not given": leave what the kernel has.
Units are the specification's: bytes, microseconds, shares.  Cold path: slot classes only.
"""

from __future__ import annotations

from corten.errors import InvalidArgument
from corten.spec.reader import U64, Reader, Value

I64 = 0x7FFFFFFFFFFFFFFF


class DeviceRule(Value):
    """One line of the device list; `major` and `minor` None mean any; `access` is made of r, w, m."""

    __slots__ = ("access", "allow", "major", "minor", "type")

    def __init__(self, allow: bool, type: str, major: int | None, minor: int | None, access: str) -> None:
        self.allow = allow
        self.type = type
        self.major = major
        self.minor = minor
        self.access = access


class Memory(Value):
    """Bytes; -1 is without limit."""

    __slots__ = (
        "check_before_update", "disable_oom_killer", "kernel", "kernel_tcp", "limit", "reservation", "swap",
        "swappiness", "use_hierarchy",
    )  # fmt: skip

    def __init__(
        self,
        limit: int | None = None,
        reservation: int | None = None,
        swap: int | None = None,
        kernel: int | None = None,
        kernel_tcp: int | None = None,
        swappiness: int | None = None,
        disable_oom_killer: bool | None = None,
        use_hierarchy: bool | None = None,
        check_before_update: bool | None = None,
    ) -> None:
        self.limit = limit
        self.reservation = reservation
        self.swap = swap
        self.kernel = kernel
        self.kernel_tcp = kernel_tcp
        self.swappiness = swappiness
        self.disable_oom_killer = disable_oom_killer
        self.use_hierarchy = use_hierarchy
        self.check_before_update = check_before_update


class Cpu(Value):
    """Quota and period in microseconds; `cpus` and `mems` in list format (cpuset(7))."""

    __slots__ = (
        "burst", "cpus", "idle", "mems", "period", "quota", "realtime_period", "realtime_runtime", "shares",
    )  # fmt: skip

    def __init__(
        self,
        shares: int | None = None,
        quota: int | None = None,
        period: int | None = None,
        burst: int | None = None,
        realtime_runtime: int | None = None,
        realtime_period: int | None = None,
        cpus: str = "",
        mems: str = "",
        idle: int | None = None,
    ) -> None:
        self.shares = shares
        self.quota = quota
        self.period = period
        self.burst = burst
        self.realtime_runtime = realtime_runtime
        self.realtime_period = realtime_period
        self.cpus = cpus
        self.mems = mems
        self.idle = idle


class WeightDevice(Value):
    """Block I/O weight of one device."""

    __slots__ = ("leaf_weight", "major", "minor", "weight")

    def __init__(self, major: int, minor: int, weight: int | None, leaf_weight: int | None) -> None:
        self.major = major
        self.minor = minor
        self.weight = weight
        self.leaf_weight = leaf_weight


class ThrottleDevice(Value):
    """A rate (bytes or operations a second) of one device."""

    __slots__ = ("major", "minor", "rate")

    def __init__(self, major: int, minor: int, rate: int) -> None:
        self.major = major
        self.minor = minor
        self.rate = rate


class BlockIO(Value):
    """Weights and throttles of block devices."""

    __slots__ = (
        "leaf_weight", "throttle_read_bps", "throttle_read_iops", "throttle_write_bps", "throttle_write_iops",
        "weight", "weight_devices",
    )  # fmt: skip

    def __init__(
        self,
        weight: int | None = None,
        leaf_weight: int | None = None,
        weight_devices: tuple[WeightDevice, ...] = (),
        throttle_read_bps: tuple[ThrottleDevice, ...] = (),
        throttle_write_bps: tuple[ThrottleDevice, ...] = (),
        throttle_read_iops: tuple[ThrottleDevice, ...] = (),
        throttle_write_iops: tuple[ThrottleDevice, ...] = (),
    ) -> None:
        self.weight = weight
        self.leaf_weight = leaf_weight
        self.weight_devices = weight_devices
        self.throttle_read_bps = throttle_read_bps
        self.throttle_write_bps = throttle_write_bps
        self.throttle_read_iops = throttle_read_iops
        self.throttle_write_iops = throttle_write_iops


class HugepageLimit(Value):
    """Limit in bytes of one page size, which is written as the kernel does (`2MB`)."""

    __slots__ = ("limit", "page_size")

    def __init__(self, page_size: str, limit: int) -> None:
        self.page_size = page_size
        self.limit = limit


class Network(Value):
    """net_cls class and net_prio priorities (cgroup v1)."""

    __slots__ = ("class_id", "priorities")

    def __init__(self, class_id: int | None = None, priorities: tuple[tuple[str, int], ...] = ()) -> None:
        self.class_id = class_id
        self.priorities = priorities


class Resources(Value):
    """All limits of a container; `pids_limit` None means not given, 0 or less means without limit."""

    __slots__ = (
        "block_io", "cpu", "devices", "hugepage_limits", "memory", "network", "pids_limit", "rdma", "unified",
    )  # fmt: skip

    def __init__(
        self,
        *,
        devices: tuple[DeviceRule, ...] = (),
        memory: Memory | None = None,
        cpu: Cpu | None = None,
        pids_limit: int | None = None,
        block_io: BlockIO | None = None,
        hugepage_limits: tuple[HugepageLimit, ...] = (),
        network: Network | None = None,
        rdma: dict[str, tuple[int | None, int | None]] | None = None,
        unified: dict[str, str] | None = None,
    ) -> None:
        self.devices = devices
        self.memory = memory or Memory()
        self.cpu = cpu or Cpu()
        self.pids_limit = pids_limit
        self.block_io = block_io or BlockIO()
        self.hugepage_limits = hugepage_limits
        self.network = network or Network()
        self.rdma = rdma or {}
        self.unified = unified or {}


def parse_resources(obj: object) -> Resources:
    """The limits in a parsed `update --resources` document; raises `InvalidArgument` naming the field."""
    return read_resources(Reader.of(obj, "resources"))


def read_resources(reader: Reader) -> Resources:
    """The limits at `reader`; raises `InvalidArgument` naming the field."""
    memory = reader.child("memory")
    cpu = reader.child("cpu")
    pids = reader.child("pids")
    block_io = reader.child("blockIO")
    network = reader.child("network")
    return Resources(
        devices=tuple(_device_rule(item) for item in reader.children("devices")),
        memory=_memory(memory) if memory else None,
        cpu=_cpu(cpu) if cpu else None,
        pids_limit=pids.optional_integer("limit", low=-I64) if pids else None,
        block_io=_block_io(block_io) if block_io else None,
        hugepage_limits=tuple(
            HugepageLimit(item.string("pageSize", required=True), item.integer("limit", high=U64))
            for item in reader.children("hugepageLimits")
        ),
        network=_network(network) if network else None,
        rdma=_rdma(reader),
        unified=reader.string_map("unified"),
    )


def _device_rule(reader: Reader) -> DeviceRule:
    type = reader.string("type") or "a"
    access = reader.string("access") or "rwm"
    if type not in ("a", "c", "b"):
        raise InvalidArgument(f"{reader.where}.type: {type!r} is not one of a, c, b")
    if access.strip("rwm"):
        raise InvalidArgument(f"{reader.where}.access: {access!r} is not made of r, w, m")
    return DeviceRule(reader.boolean("allow"), type, _number(reader, "major"), _number(reader, "minor"), access)


def _number(reader: Reader, name: str) -> int | None:
    """A device number; null and -1 both mean any (runc writes -1)."""
    value = reader.optional_integer(name, low=-1)
    return None if value == -1 else value


def _memory(reader: Reader) -> Memory:
    return Memory(
        reader.optional_integer("limit", low=-1),
        reader.optional_integer("reservation", low=-1),
        reader.optional_integer("swap", low=-1),
        reader.optional_integer("kernel", low=-1),
        reader.optional_integer("kernelTCP", low=-1),
        reader.optional_integer("swappiness", high=U64),
        reader.optional_boolean("disableOOMKiller"),
        reader.optional_boolean("useHierarchy"),
        reader.optional_boolean("checkBeforeUpdate"),
    )


def _cpu(reader: Reader) -> Cpu:
    return Cpu(
        reader.optional_integer("shares", high=U64),
        reader.optional_integer("quota", low=-I64),
        reader.optional_integer("period", high=U64),
        reader.optional_integer("burst", high=U64),
        reader.optional_integer("realtimeRuntime", low=-I64),
        reader.optional_integer("realtimePeriod", high=U64),
        reader.string("cpus"),
        reader.string("mems"),
        reader.optional_integer("idle", low=-I64),
    )


def _block_io(reader: Reader) -> BlockIO:
    names = ("throttleReadBpsDevice", "throttleWriteBpsDevice", "throttleReadIOPSDevice", "throttleWriteIOPSDevice")
    return BlockIO(
        reader.optional_integer("weight", high=0xFFFF),
        reader.optional_integer("leafWeight", high=0xFFFF),
        tuple(
            WeightDevice(
                item.integer("major"),
                item.integer("minor"),
                item.optional_integer("weight", high=0xFFFF),
                item.optional_integer("leafWeight", high=0xFFFF),
            )
            for item in reader.children("weightDevice")
        ),
        *(tuple(_throttle(item) for item in reader.children(name)) for name in names),
    )


def _throttle(reader: Reader) -> ThrottleDevice:
    return ThrottleDevice(reader.integer("major"), reader.integer("minor"), reader.integer("rate", high=U64))


def _network(reader: Reader) -> Network:
    return Network(
        reader.optional_integer("classID", high=0xFFFFFFFF),
        tuple(
            (item.string("name", required=True), item.integer("priority", high=0xFFFFFFFF))
            for item in reader.children("priorities")
        ),
    )


def _rdma(reader: Reader) -> dict[str, tuple[int | None, int | None]]:
    table = reader.child("rdma")
    if table is None:
        return {}
    limits = {name: Reader.of(table.obj[name], f"{table.where}.{name}") for name in table.names()}
    return {name: (_count(item, "hcaHandles"), _count(item, "hcaObjects")) for name, item in limits.items()}


def _count(reader: Reader, name: str) -> int | None:
    return reader.optional_integer(name, high=0xFFFFFFFF)
