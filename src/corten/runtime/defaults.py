"""The node's defaults for containers, from the command line or one small JSON file.

    /etc/corten/runtime.json     {"default-pids-limit": 500}

`--config FILE` names another file, which must then exist; `--default-pids-limit N` goes before it.
"""

from __future__ import annotations

from corten.errors import InvalidArgument, NotFound
from corten.runtime import fast
from corten.runtime.options import BUILT_IN, BUILT_IN_PIDS_LIMIT
from corten.sys import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corten.runtime.args import Options

CONFIG_PATH = "/etc/corten/runtime.json"
PIDS_KEY = "default-pids-limit"
KEYS = frozenset((PIDS_KEY,))


def pids_limit(settings: Options) -> tuple[int, str]:
    """(limit, who set it) for a container that brings none; -1 for no limit."""
    if settings.given(PIDS_KEY):
        return checked(settings.number(PIDS_KEY), f"--{PIDS_KEY}"), f"--{PIDS_KEY}"
    path = settings.text("config", CONFIG_PATH)
    value = read(path, required=settings.given("config")).get(PIDS_KEY)
    if value is None:
        return BUILT_IN_PIDS_LIMIT, BUILT_IN
    return checked(value, f"{path}: {PIDS_KEY}"), path


def checked(value: object, where: str) -> int:
    """A limit that is a whole number, -1 or greater than 0; raises InvalidArgument."""
    if not isinstance(value, int) or isinstance(value, bool) or value < -1 or value == 0:
        raise InvalidArgument(f"{where}: {value!r} is neither a number of processes nor -1")
    return value


def read(path: str, *, required: bool) -> dict[str, Any]:
    """The file's object; raises InvalidArgument for keys that nobody reads, NotFound when it must exist."""
    try:
        content = files.read(path)
    except FileNotFoundError:
        if required:
            raise NotFound(f"config {path} does not exist") from None
        return {}
    values = fast.loads(content)
    if not isinstance(values, dict):
        raise InvalidArgument(f"{path}: expected an object")
    for key in values:
        if key not in KEYS:
            raise InvalidArgument(f"{path}: unknown key {key!r}")
    return values
