"""The limits on the command line of `update`, by way of the document that they abbreviate.

Numbers and sizes are read as runc reads them (Go's strconv, go-units): a flag that is empty or 0 counts as not given.
"""

from __future__ import annotations

from corten.errors import InvalidArgument
from corten.spec.resources import Resources, parse_resources
from corten.spec.units import parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.runtime.args import Options
    from corten.runtime.log import Log

# flag: section and key of runtime-spec's `linux.resources`
UNSIGNED = {
    "cpu-period": ("cpu", "period"),
    "cpu-burst": ("cpu", "burst"),
    "cpu-rt-period": ("cpu", "realtimePeriod"),
    "cpu-share": ("cpu", "shares"),
}
SIGNED = {
    "cpu-quota": ("cpu", "quota"),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime"),
    "cpu-idle": ("cpu", "idle"),
}
SIZES = {
    "memory": ("memory", "limit"),
    "memory-swap": ("memory", "swap"),
    "memory-reservation": ("memory", "reservation"),
}
COUNTS = {"blkio-weight": ("blockIO", "weight"), "pids-limit": ("pids", "limit")}
TEXTS = {"cpuset-cpus": ("cpu", "cpus"), "cpuset-mems": ("cpu", "mems")}
IGNORED = ("kernel-memory", "kernel-memory-tcp")
RDT = {  # flag: what is said where the machine cannot
    "l3-cache-schema": "Intel RDT/CAT: l3 cache schema is not enabled",
    "mem-bw-schema": "Intel RDT/MBA: memory bandwidth schema is not enabled",
}
DIGITS = 40  # more, with zeros in front, nobody writes; the interpreter would refuse thousands in its own words
ZERO_COUNTS = frozenset(("cpu-idle", "cpu-burst"))  # turns off what was on


def from_flags(flags: Options, log: Log) -> Resources:
    """What the flags say; raises InvalidArgument in runc's words."""
    document: dict[str, dict[str, object]] = {}
    if any(flags.text(name) for name in IGNORED):
        log.warning("Kernel memory settings are ignored and will be removed")
    for table, read in ((UNSIGNED, unsigned), (SIGNED, signed), (SIZES, size), (COUNTS, count), (TEXTS, text)):
        for name, (section, key) in table.items():
            if flags.text(name):
                value = read(name, flags.text(name))
                if value or name in ZERO_COUNTS:
                    document.setdefault(section, {})[key] = value
    return parse_resources(document)


def unsigned(name: str, given: str) -> int:
    """As strconv.ParseUint in base ten."""
    return _decimal(name, given, "ParseUint", 0, (1 << 64) - 1)


def signed(name: str, given: str) -> int:
    """As strconv.ParseInt in base ten."""
    return _decimal(name, given, "ParseInt", -(1 << 63), (1 << 63) - 1)


def _decimal(name: str, given: str, function: str, low: int, high: int) -> int:
    digits = given[1:] if low and given[:1] in ("+", "-") else given
    if not (digits.isascii() and digits.isdigit()):
        problem = "invalid syntax"
    elif len(digits) > DIGITS or not low <= int(given) <= high:
        problem = "value out of range"
    else:
        return int(given)
    raise InvalidArgument(f'invalid value for {name}: strconv.{function}: parsing "{given}": {problem}')


def size(name: str, given: str) -> int:
    """Bytes, with a binary unit or without; -1 for no limit."""
    if given == "-1":
        return -1
    try:
        return parse_size(given, 1024)
    except ValueError as error:
        raise InvalidArgument(f"invalid value for {name}: {error}") from None


def count(name: str, given: str) -> int:
    """A number that was checked when the line was parsed."""
    return int(given, 0)


def text(name: str, given: str) -> str:
    """As it is."""
    return given
