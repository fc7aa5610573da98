"""Errors of a start as dockerd words and codes them.

The CLI reads them: "executable file not found", "no such file or directory" make its exit status 127,
"permission denied" 126, all else 125 (cli/command/container/run.go).  The container keeps the same code.
"""

from __future__ import annotations

from typing import Final

from corten.engine.effective import Effective
from corten.errors import CortenError, Internal, InvalidArgument

CREATE_PREFIX: Final = "failed to create task for container: failed to create shim task: OCI runtime create failed: "
LOGGING_FAILED: Final = "failed to initialize logging driver"
EXEC_PREFIX: Final = "OCI runtime exec failed: "
FAILED_START: Final = 128
CANNOT_INVOKE: Final = 126
NOT_FOUND: Final = 127

_MOUNT_HINT: Final = (
    ": Are you trying to mount a directory onto a file (or vice-versa)? Check if the specified host path exists and is "
    "the expected type"
)


def start_error(error: CortenError) -> tuple[CortenError, int]:
    """The error for the client and the container's exit code, for what a runtime said at create or start."""
    if error.text.startswith(LOGGING_FAILED):  # dockerd's own, before it asks a runtime
        text = f"failed to create task for container: {error.text}"
        return Internal(text), exit_code(text)
    text = f"{CREATE_PREFIX}{error.text}: unknown"
    code = exit_code(text)
    if "not a directory" in text:
        text += _MOUNT_HINT
    return (Internal(text) if code == FAILED_START else InvalidArgument(text)), code


def check(effective: Effective) -> None:
    """Raises what runc says of an empty command; Corten's runtime refuses the bundle as such."""
    if not effective.argv[0]:
        text = 'unable to start container process: exec: "": executable file not found in $PATH'
        raise start_error(Internal(text))[0]


def exec_error(error: CortenError) -> CortenError:
    """The same for an exec."""
    text = f"{EXEC_PREFIX}{error.text}: unknown"
    return Internal(text) if exit_code(text) == FAILED_START else InvalidArgument(text)


def exit_code(text: str) -> int:
    """126, 127 or 128 by the words in a runtime's error."""
    lower = text.lower()
    if "permission denied" in lower or "is a directory" in lower:
        return CANNOT_INVOKE
    if any(words in lower for words in ("executable file not found", "no such file or directory", "not a directory")):
        return NOT_FOUND
    return FAILED_START
