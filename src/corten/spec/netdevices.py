"""`linux.netDevices`: devices of the runtime's network namespace that go into the container's (config-linux.md)."""

from __future__ import annotations

from corten.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.spec.reader import Reader

NAME_BYTES = 15


def read_net_devices(reader: Reader) -> dict[str, str]:
    """Name outside → name inside; raises `InvalidArgument` for what the kernel would not call a name."""
    found: dict[str, str] = {}
    for name in reader.names():
        row = reader.child(name)
        inside = (row.string("name") if row else "") or name
        for each in (name, inside):
            if not is_name(each):
                raise InvalidArgument(f"invalid network device name {each!r}")
        if inside in found.values():
            raise InvalidArgument(f"{reader.where}: two network devices would be {inside!r} in the container")
        found[name] = inside
    return found


def is_name(name: str) -> bool:
    """As dev_valid_name() of the kernel has it."""
    return (
        0 < len(name.encode("utf-8", "surrogateescape")) <= NAME_BYTES
        and name not in (".", "..")
        and not any(letter in "/:" or letter.isspace() for letter in name)
    )
