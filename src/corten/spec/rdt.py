"""`linux.intelRdt`: shares of cache and memory bandwidth, by Intel's RDT (config-linux.md, "IntelRdt")."""

from __future__ import annotations

from corten.errors import InvalidArgument
from corten.spec.reader import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.spec.reader import Reader


ROOT = "/"  # the closID of the default class, at the root of the file system
RESERVED_DIRECTORIES = ("info", "mon_groups", "mon_data")  # directories of a resctrl file system that are no classes


class IntelRdt(Value):
    """A class of service.

    closid         name of its directory, '' for the container's id, `/` for the default class
    schemata       lines of the file of that name, in the order in which they are written
    monitored      a monitoring group of the container's own is made
    named          the first of `l3CacheSchema` and `memBwSchema` that the bundle has, '' for none
    """

    __slots__ = ("closid", "monitored", "named", "schemata")

    def __init__(self, closid: str, schemata: tuple[str, ...], *, monitored: bool = False, named: str = "") -> None:
        self.closid = closid
        self.schemata = schemata
        self.monitored = monitored
        self.named = named


def read_rdt(reader: Reader) -> IntelRdt:
    """Raises `InvalidArgument` naming the field.

    `l3CacheSchema` counts without its lines of memory bandwidth, which are `memBwSchema`'s; `schemata` comes last.
    """
    closid = reader.string("closID")
    if closid != ROOT and (closid in (".", "..") or "/" in closid or closid in RESERVED_DIRECTORIES):
        raise InvalidArgument(f"invalid intelRdt.ClosID {closid!r}")
    l3 = [line for line in _lines(reader.string("l3CacheSchema")) if not line.startswith("MB:")]
    bandwidth = _lines(reader.string("memBwSchema"))
    given = [line for text in reader.strings("schemata") for line in _lines(text)]
    # enableCMT and enableMBM are what 1.0 to 1.2 of the specification had in place of enableMonitoring
    monitored = [reader.boolean(name) for name in ("enableMonitoring", "enableCMT", "enableMBM")]
    named = next((name for name in ("l3CacheSchema", "memBwSchema") if reader.string(name)), "")
    return IntelRdt(closid, (*l3, *bandwidth, *given), monitored=any(monitored), named=named)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]
