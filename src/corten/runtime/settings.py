"""Values that follow from the global flags."""

from __future__ import annotations

import posix

from corten.runtime import args
from corten.sys import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.runtime.args import Options


def root(settings: Options) -> str:
    """The state root of an invocation, absolute: `--root`, else /run, or the user's runtime directory."""
    given = settings.text("root")
    if given:
        return files.absolute(given)
    if posix.geteuid() != 0:
        directory = posix.environ.get(b"XDG_RUNTIME_DIR", b"").decode()
        if directory:
            return f"{directory}/{args.PROGRAM}"
    return args.DEFAULT_ROOT
