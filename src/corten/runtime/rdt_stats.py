"""What `events` tells of a container's class of resource control, in runc's shape (types/events.go, `IntelRdt`).

Each part is there where the machine has it: `info/L3` and `info/MB` say so for limits, `info/L3_MON/mon_features` for
counters.  Rules: Documentation/filesystems/resctrl.rst.
"""

from __future__ import annotations

import posix

from corten.runtime.rdt import class_of
from corten.sys import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corten.runtime.state import State
    from corten.spec.rdt import IntelRdt

    Table = dict[str, Any]

# prefix of the lines of `schemata`: (key of the information, key of the lines, files of numbers in info/<prefix>)
LIMITS = {
    "L3": ("l3_cache_info", "l3_cache_schema", ("min_cbm_bits", "num_closids")),
    "MB": ("mem_bw_info", "mem_bw_schema", ("bandwidth_gran", "delay_linear", "min_bandwidth", "num_closids")),
}
# key of the counters: the features that they are of
COUNTERS = {"mbm_stats": ("mbm_total_bytes", "mbm_local_bytes"), "cmt_stats": ("llc_occupancy",)}


def of(record: State) -> Table:
    """The object of a container, empty for one without a class."""
    from corten.runtime import hostfacts

    if b'"intelRdt"' not in record.config_bytes():
        return {}
    rdt = record.config().linux.intel_rdt
    resctrl = hostfacts.gather().resctrl if rdt is not None else ""
    return stats(resctrl, rdt, record.id) if rdt is not None and resctrl else {}


def stats(resctrl: str, rdt: IntelRdt, id: str) -> Table:
    """The object of the container `id` below a resctrl file system."""
    directory = class_of(resctrl, rdt, id)
    found: Table = {}
    for prefix, (information, lines, names) in LIMITS.items():
        folder = f"{resctrl}/info/{prefix}"
        if not files.is_directory(folder):
            continue
        mask = {"cbm_mask": _text(f"{folder}/cbm_mask")} if prefix == "L3" else {}
        table = {**mask, **{name: _number(f"{folder}/{name}") for name in names}}
        found[information] = {key: value for key, value in table.items() if value}
        found[f"{lines}_root"] = _line(resctrl, prefix)
        found[lines] = _line(directory, prefix)
    features = _text(f"{resctrl}/info/L3_MON/mon_features").split()
    monitor = f"{directory}/mon_groups/{id}" if rdt.monitored else directory
    for key, names in COUNTERS.items():
        if set(names) & set(features):
            found[key] = [{name: _number(f"{node}/{name}") for name in names} for node in _nodes(monitor)]
    return {key: value for key, value in found.items() if value}


def _nodes(directory: str) -> list[str]:
    """The folders of the caches that are counted, in order."""
    try:
        names = posix.listdir(f"{directory}/mon_data")
    except FileNotFoundError:
        return []
    return [f"{directory}/mon_data/{name}" for name in sorted(names) if name.startswith("mon_L3")]


def _line(directory: str, prefix: str) -> str:
    """The last line of a class's limits with that prefix."""
    lines = [line.strip() for line in _text(f"{directory}/schemata").splitlines()]
    return next((line for line in reversed(lines) if line.startswith(prefix)), "")


def _number(path: str) -> int:
    """A counter; 0 where the kernel has none at the moment (`Unavailable`)."""
    text = _text(path)
    return int(text) if text.isdigit() else 0


def _text(path: str) -> str:
    try:
        return files.read_text(path).strip()
    except OSError:
        return ""
