"""`corten-runtime`: an OCI runtime with runc's command line.

Exit status: the container's own for `run` and `exec` in the foreground (128+n for signal n), 255 for an `exec` that
could not start, 1 for every other failure, 3 for an unknown verb.  The failure's text goes where runc's would.
"""

from __future__ import annotations

import gc
import posix

from corten.errors import CortenError
from corten.runtime import args, fast
from corten.runtime.log import Log
from corten.sys import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from corten.runtime.args import Invocation, Options

# verb: (module, function(invocation, log) -> exit status)
VERBS = {
    "create": ("commands", "create"),
    "start": ("commands", "start"),
    "state": ("commands", "state"),
    "kill": ("commands", "kill"),
    "delete": ("commands", "delete"),
    "pause": ("commands", "pause"),
    "resume": ("commands", "resume"),
    "list": ("listing", "run"),
    "run": ("foreground", "run"),
    "exec": ("foreground", "exec"),
    "events": ("events", "run"),
    "checkpoint": ("checkpoint", "checkpoint"),
    "restore": ("restore", "restore"),
    "ps": ("cold", "ps"),
    "plan": ("cold", "plan"),
    "update": ("cold", "update"),
    "spec": ("cold", "spec"),
    "features": ("cold", "features"),
    "version": ("cold", "version"),
}
# what stands before the text of these, as in runc
FAILED = {"create": f"{args.PROGRAM} create failed: ", "run": f"{args.PROGRAM} run failed: ", "exec": "exec failed: "}
EXEC_FAILURE, FAILURE = 255, 1
STDIO = (0, 1, 2)


def main(argv: list[str]) -> NoReturn:
    """The program: runs one command line and ends the process.

    Nothing is buffered, so that nothing needs the interpreter's own end, which takes 1.5 ms.
    """
    gc.disable()  # a process of milliseconds: nothing to collect
    fast.keep_children()
    _open_stdio()
    posix._exit(execute(argv))


def _open_stdio() -> None:
    """The null device where the caller closed stdio: no descriptor of ours may become the container's 0, 1 or 2."""
    for fd in STDIO:
        try:
            posix.fstat(fd)
        except OSError:
            posix.set_inheritable(posix.open("/dev/null", posix.O_RDWR), True)  # the lowest that is free: this one


def execute(argv: list[str]) -> int:
    """Runs one command line; the exit status."""
    try:
        invocation = args.parse(argv)
    except args.UsageError as error:
        return _misused(error)
    settings = invocation.settings
    if settings.is_set("version") or settings.is_set("help") or not invocation.verb:
        return _tell(invocation)
    path, form = settings.text("log"), settings.text("log-format", "text")
    try:
        log = Log(path, form, debug_wanted=settings.is_set("debug"))
    except OSError as error:
        Log("", form, debug_wanted=False).error(f"open {path}: {files.why(error)}")
        return FAILURE
    try:
        _check_settings(settings)
        if invocation.options.is_set("help"):
            return _tell(invocation)
        return _carry_out(invocation, log)
    except CortenError as error:
        text = error.text
    except OSError as error:
        text = files.sentence(error)
    except Exception as error:  # the outermost loop: a defect is reported like any failure, with its place
        text = _defect(error)
    verb = invocation.verb
    log.error(FAILED.get(verb, "") + text)
    return EXEC_FAILURE if verb == "exec" else FAILURE


def _carry_out(invocation: Invocation, log: Log) -> int:
    name, function = VERBS[invocation.verb]
    module = __import__(f"corten.runtime.{name}", fromlist=(function,))
    status: int = getattr(module, function)(invocation, log)
    return status


def _check_settings(settings: Options) -> None:
    """Refuses values of global flags that would otherwise be silently ignored."""
    form = settings.text("log-format", "text")
    if form not in ("text", "json"):
        raise args.UsageError(f"invalid log-format: {form}")
    rootless = settings.text("rootless", "auto")
    if rootless not in ("true", "false", "auto"):
        raise args.UsageError(f'invalid value "{rootless}" for flag -rootless')


def _misused(error: args.UsageError) -> int:
    """Usage on stdout, the text where any error goes, as runc does it."""
    if error.status == FAILURE:
        from corten.runtime import usage

        files.write_all(1, f"Incorrect Usage.\n\n{usage.text(error.verb)}\n".encode())
    path, form = error.settings.text("log"), error.settings.text("log-format", "text")
    try:
        log = Log(path, form, debug_wanted=False)
    except OSError:
        log = Log("", form, debug_wanted=False)
    log.error(error.text)
    return error.status


def _tell(invocation: Invocation) -> int:
    """`--version` or `--help`."""
    from corten.runtime import usage

    wants_version = invocation.settings.is_set("version")
    files.write_all(1, (usage.version() if wants_version else usage.text(invocation.verb)).encode())
    return 0


def _defect(error: Exception) -> str:
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f" at {place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place is not None else ""
    return f"internal error: {type(error).__name__}: {error}{where}"
