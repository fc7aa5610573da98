"""What goes wrong and is nobody's answer: told on standard error, a shim's shim.log, its helper's the log of cortend.

That may be a file on a full disk, or a pipe that nobody reads any more: no reason to end, and a container with it.
"""

from __future__ import annotations

import contextlib
import os
import traceback


def complain(error: BaseException) -> None:
    """The error and where it was raised, in one write, as far as there is room for it."""
    _write("".join(traceback.format_exception(error)))


def remark(text: str) -> None:
    """A sentence of its own: what the runtime warns of."""
    _write(f"{text}\n")


def _write(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, text.encode(errors="backslashreplace"))
