"""Names of CDI devices: `vendor.com/class=name` (Container Device Interface specification, "Kind", "Device names")."""

from __future__ import annotations

import re
from typing import Final

_KIND_PART: Final = r"[A-Za-z]|[A-Za-z][A-Za-z0-9_.-]*[A-Za-z0-9]"
_NAME: Final = r"[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9_.:-]*[A-Za-z0-9]"
_KIND: Final = re.compile(rf"(?:{_KIND_PART})/(?:{_KIND_PART})")
_DEVICE: Final = re.compile(_NAME)


def is_kind(text: str) -> bool:
    """`vendor.com/class`."""
    return _KIND.fullmatch(text) is not None


def is_device(text: str) -> bool:
    """The part behind `=`."""
    return _DEVICE.fullmatch(text) is not None


def is_qualified(text: str) -> bool:
    """`vendor.com/class=name`: what `--device` takes for a device of CDI and not for a path."""
    kind, equals, name = text.partition("=")
    return bool(equals) and is_kind(kind) and is_device(name)
