"""Files of `--env-file` and `--label-file`: one `NAME=value` a line, `#` in front of a comment."""

from __future__ import annotations

import re

from corten import errors


def lines(path: str) -> list[str]:
    """The lines that say something.  Raises `InvalidArgument` with the words of Docker's CLI."""
    try:
        with open(path, "rb") as file:
            raw = file.read().split(b"\n")
    except IsADirectoryError:  # open(2) of a directory works; Python's open reads it at once
        raise _invalid(path, f"read {path}: is a directory") from None
    except OSError as error:
        raise errors.InvalidArgument(f"open {path}: {(error.strerror or '').lower()}") from error
    found = []
    for number, data in enumerate(raw, 1):
        try:
            line = data.decode().removesuffix("\r").lstrip()
        except UnicodeDecodeError:
            shown = " ".join(map(str, data))
            raise _invalid(path, f"invalid utf8 bytes at line {number}: [{shown}]") from None
        if number == 1:
            line = line.removeprefix("\ufeff")
        if line and not line.startswith("#"):
            found.append(_checked(path, line))
    return found


def _checked(path: str, line: str) -> str:
    name = line.partition("=")[0]
    if not name:
        raise _invalid(path, f"no variable name on line '{line}'")
    if re.search(r"\s", name):
        raise _invalid(path, f"variable '{name}' contains whitespaces")
    return line


def _invalid(path: str, reason: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(f"invalid env file ({path}): {reason}")
