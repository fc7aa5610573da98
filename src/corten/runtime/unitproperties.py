"""Names and properties of a container's systemd unit: pure, values as D-Bus has them.

systemd keeps its own idea of a unit's limits and writes it again when it reloads: what stands in the cgroup's files
is therefore told to it as well.  Sources: systemd.resource-control(5), org.freedesktop.systemd1(5); for what runc
tells, `systemctl show` of its units.
"""

from __future__ import annotations

from corten.errors import InvalidArgument
from corten.runtime import cgroup_settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.spec.resources import Cpu, Memory, Resources

    Variant = tuple[str, object]
    Property = tuple[str, Variant]

SLICE, SCOPE = ".slice", ".scope"
DEFAULT_SLICE, DEFAULT_PREFIX = "system.slice", "corten"
INFINITY = (1 << 64) - 1
DIGITS = 20  # of the largest number
INTEGERS = ("uint64", "int64", "uint32", "int32")  # of GVariant
PERCENT_US = 10_000  # systemd keeps a quota in percent of a second
DEFAULT_PERIOD_US = 100_000
ANNOTATION = "org.systemd.property."
# what a bundle may set of its unit, and the type: nothing that runs a program, changes another unit or names a file
ALLOWED = {
    "After": "as", "Before": "as", "CPUWeight": "t", "CollectMode": "s", "DefaultDependencies": "b", "Description": "s",
    "IOWeight": "t", "MemoryHigh": "t", "MemoryLow": "t", "MemoryMin": "t", "OOMPolicy": "s", "TimeoutStopUSec": "t",
}  # fmt: skip
# a file of `linux.resources.unified`: the property that has the same value
UNIFIED = {
    "cpu.weight": "CPUWeight", "memory.high": "MemoryHigh", "memory.low": "MemoryLow", "memory.max": "MemoryMax",
    "memory.min": "MemoryMin", "memory.swap.max": "MemorySwapMax", "pids.max": "TasksMax",
}  # fmt: skip


class Unit:
    """A unit and the slice that it is in."""

    __slots__ = ("name", "slice")

    def __init__(self, name: str, slice: str) -> None:
        self.name = name
        self.slice = slice

    @property
    def path(self) -> str:
        """Its cgroup, from the root of the hierarchy."""
        return f"{expand(self.slice).rstrip('/')}/{self.name}" if self.name.endswith(SCOPE) else expand(self.name)


def unit_of(cgroups_path: str, id: str) -> Unit:
    """The unit of `linux.cgroupsPath` in the form `slice:prefix:name`; raises InvalidArgument in runc's words."""
    if not cgroups_path:
        return Unit(f"{DEFAULT_PREFIX}-{id}{SCOPE}", DEFAULT_SLICE)
    parts = cgroups_path.split(":")
    if len(parts) != 3:
        raise InvalidArgument(
            'expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, '
            f'got "{cgroups_path}" instead'
        )
    slice, prefix, name = parts
    slice = slice or DEFAULT_SLICE
    expand(slice)
    if name.endswith(SLICE):
        raise InvalidArgument(f"a container's unit is a scope, not a slice: {name}")
    if not name or "/" in name + prefix:
        raise InvalidArgument(f"invalid unit name: {prefix}-{name}{SCOPE}")
    return Unit(f"{prefix}-{name}{SCOPE}", slice)


def expand(slice: str) -> str:
    """`/a.slice/a-b.slice` of `a-b.slice`, `/` of the root's; raises InvalidArgument in runc's words."""
    stem = slice.removesuffix(SLICE)
    if slice == "-.slice":
        return "/"
    if stem == slice or "/" in slice or not all(stem.split("-")):
        raise InvalidArgument(f"invalid slice name: {slice}")
    path, prefix = "", ""
    for component in stem.split("-"):
        path += f"/{prefix}{component}{SLICE}"
        prefix += f"{component}-"
    return path


def of_scope(unit: Unit, id: str, pid: int) -> list[Property]:
    """What makes a scope of `pid`, its limits and annotations apart."""
    return [
        ("Description", ("s", f"corten container {id}")),
        ("Slice", ("s", unit.slice)),
        ("Delegate", ("b", True)),
        ("PIDs", ("au", [pid])),
        *[(f"{kind}Accounting", ("b", True)) for kind in ("Memory", "CPU", "IO", "Tasks")],
        ("DefaultDependencies", ("b", False)),
    ]


def of_resources(resources: Resources, pids_limit: int | None) -> list[Property]:
    """The limits that systemd knows; `pids_limit` is the one that holds (-1: none, None: not given)."""
    found = [*_memory(resources.memory), *_cpu(resources.cpu)]
    if pids_limit:
        found.append(("TasksMax", ("t", pids_limit if pids_limit > 0 else INFINITY)))
    for file, value in resources.unified.items():
        found += _unified(file, value.strip())
    return found


def _memory(memory: Memory) -> list[Property]:
    rows = (
        ("MemoryMax", memory.limit),
        ("MemoryLow", memory.reservation),
        ("MemorySwapMax", cgroup_settings.swap_alone(memory.limit, memory.swap)),
    )
    swap_is_set = bool(memory.swap)  # to nothing at all, where it equals the limit
    return [
        (name, ("t", value if value >= 0 else INFINITY))
        for name, value in rows
        if value or (value == 0 and name == "MemorySwapMax" and swap_is_set)
    ]


def _cpu(cpu: Cpu) -> list[Property]:
    found: list[Property] = []
    if cpu.shares:
        found.append(("CPUWeight", ("t", cgroup_settings.weight_of_shares(cpu.shares))))
    found += _quota(cpu.quota or 0, cpu.period or 0)
    for name, text in (("AllowedCPUs", cpu.cpus), ("AllowedMemoryNodes", cpu.mems)):
        if text:
            found.append((name, ("ay", bits(text))))
    return found


def _quota(quota: int, period: int) -> list[Property]:
    """A quota is per second here, in whole percents: rounded up, so that the cgroup's own fits."""
    found: list[Property] = []
    if period:
        found.append(("CPUQuotaPeriodUSec", ("t", period)))
    if quota or period:
        per_second = INFINITY
        if quota > 0:
            per_second = -(-(quota * 1_000_000 // (period or DEFAULT_PERIOD_US)) // PERCENT_US) * PERCENT_US
        found.append(("CPUQuotaPerSecUSec", ("t", per_second)))
    return found


def _unified(file: str, value: str) -> list[Property]:
    """What systemd has no property for stands in the file alone."""
    if file == "cpu.max":
        quota, _, period = value.partition(" ")
        return _quota(-1 if quota == "max" else _number(file, quota), _number(file, period or str(DEFAULT_PERIOD_US)))
    if file in ("cpuset.cpus", "cpuset.mems"):
        return [("AllowedCPUs" if file == "cpuset.cpus" else "AllowedMemoryNodes", ("ay", bits(value)))]
    if file in UNIFIED:
        return [(UNIFIED[file], ("t", INFINITY if value == "max" else _number(file, value)))]
    return []


def _number(file: str, text: str) -> int:
    if not is_number(text):
        raise InvalidArgument(f'unified resource "{file}": {text!r} is not a number')
    return int(text)


def is_number(text: str) -> bool:
    """Decimal digits of what fits into 64 bits without a sign."""
    return text.isascii() and text.isdigit() and len(text) <= DIGITS and int(text) <= INFINITY


def bits(text: str) -> list[int]:
    """A list as cpuset(7) has it (`0-2,5`) as the bytes of its bit mask, the lowest first."""
    mask = 0
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        last = last or first
        if not (is_number(first) and is_number(last)) or int(last) >= 8192 or int(first) > int(last):
            raise InvalidArgument(f"linux.resources.cpu: {text!r} is not a list of numbers")
        mask |= (1 << int(last) + 1) - (1 << int(first))
    return list(mask.to_bytes((mask.bit_length() + 7) // 8, "little"))


def of_annotations(annotations: dict[str, str]) -> list[Property]:
    """`org.systemd.property.NAME`, with a value in GVariant's text form; raises InvalidArgument."""
    found = []
    for key, text in annotations.items():
        if not key.startswith(ANNOTATION):
            continue
        name = key.removeprefix(ANNOTATION)
        seconds = name.endswith("Sec") and not name.endswith("USec")
        property = f"{name[:-3]}USec" if seconds else name
        type = ALLOWED.get(property)
        if type is None:
            raise InvalidArgument(f"annotation {key}: a container may not set this property of its unit")
        value = _parse(key, type, text.strip())
        if seconds and isinstance(value, int):
            value = min(value * 1_000_000, INFINITY)  # which is for ever
        found.append((property, (type, value)))
    return found


def _parse(key: str, type: str, text: str) -> object:
    if type == "t":
        digits = text.rpartition(" ")[2] if text.partition(" ")[0] in INTEGERS else text
        if is_number(digits):
            return int(digits)
    elif type == "b" and text in ("true", "false"):
        return text == "true"
    elif type == "s" and len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" and text.isprintable():
        if not set(text[1:-1]) & set("\\'\""):
            return text[1:-1]
    elif type == "as" and text[:1] == "[" and text[-1:] == "]":
        inner = text[1:-1].strip()
        return [_parse(key, "s", item.strip()) for item in inner.split(",")] if inner else []
    raise InvalidArgument(f"annotation {key}={text} value parse error: not of the type {type}")
