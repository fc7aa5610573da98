"""`<exec-root>/settings.json`: what cortend's settings are, for those who come beside it with other flags (`--doctor`).

Written at a start and at a reload, and left behind, so that it tells of the last cortend when none runs.
"""

from __future__ import annotations

import contextlib
import logging
import os
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from corten.daemon import config
from corten.engine.settings import Settings

FILE: Final = "settings.json"
# key → attribute, and what it must be: those on which depends what should be there
_TAKEN: Final[dict[str, tuple[str, type]]] = {
    "data-root": ("data_root", str),
    "signal-senders": ("signal_senders", bool),
}

log = logging.getLogger("corten.daemon")


def tell(settings: Settings, config_file: str) -> None:
    """Write it; a disk without room costs no start."""
    path = f"{settings.exec_root}/{FILE}"
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{path}.new")
        fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            file.write(f'{{"settings":{config.shown(settings)},"from":{_from(settings, config_file)}}}\n')
        os.rename(f"{path}.new", path)
    except OSError as error:
        log.warning("%s is not written: %s", path, (error.strerror or "").lower())


def _from(settings: Settings, config_file: str) -> str:
    """key → the file that said it; those that no file said are not there."""
    of_file = {key: os.path.abspath(config_file) for key in _TAKEN if settings.origin(key) == "daemon.json"}
    return msgspec.json.encode(of_file).decode()


def heard(settings: Settings, config_file: str) -> Settings:
    """`settings` with the engine's own values, where neither a flag nor the file says otherwise.

    What the engine had of this very file, and is not in it any more, is not wanted any more.
    """
    try:
        with open(f"{settings.exec_root}/{FILE}", "rb") as file:
            found: Any = msgspec.json.decode(file.read())
    except (OSError, msgspec.DecodeError):
        return settings
    if not isinstance(found, dict):
        return settings
    values, said = (one if isinstance(one, dict) else {} for one in (found.get("settings"), found.get("from")))
    change = {
        attribute: values[key]
        for key, (attribute, kind) in _TAKEN.items()
        if settings.origin(key) == "built-in"
        and isinstance(values.get(key), kind)
        and said.get(key) != os.path.abspath(config_file)
    }
    return replace(settings, **change)
