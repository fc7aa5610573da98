"""What goes wrong and is nobody's answer: told on standard error, which is a shim's shim.log.

That may be a file on a full disk, or a pipe that nobody reads any more: no reason to end, and a container with it.
"""

from __future__ import annotations

import contextlib
import os
import traceback


def complain(error: BaseException) -> None:
    """The error and where it was raised, in one write, as far as there is room for it."""
    with contextlib.suppress(OSError):
        os.write(2, "".join(traceback.format_exception(error)).encode(errors="backslashreplace"))
