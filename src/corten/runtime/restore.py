"""The verb `restore`: CRIU makes a container's processes again from the images that a checkpoint wrote.

The images are those of `corten.runtime.checkpoint`, or runc's, in whose place this stands.
"""

from __future__ import annotations

import posix

from corten.errors import InvalidArgument, NotFound
from corten.runtime import checkpoint, commands, criu, ending, fast, foreground
from corten.runtime.restoring import Images, Restoration
from corten.sys import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.runtime.args import Invocation, Options
    from corten.runtime.log import Log
    from corten.spec.runtime import Config

LOG_FILE = "restore.log"
STDIO_COUNT = 3
PIPE = "pipe:["


def restore(invocation: Invocation, log: Log) -> int:
    """Restores a container; in the foreground its exit status, after everything is removed."""
    from corten.runtime.prepare import SPEC, Host, read_config
    from corten.spec.runtime import parse_config

    flags = invocation.options
    if posix.geteuid():
        log.warning("restore is untested with rootless containers")
    options = commands.create_options(invocation, log)
    options.wait_for_start, options.notify, options.preserve_fds, options.extra_env = False, None, 0, ()
    config = parse_config(fast.loads_from(SPEC, read_config(options.bundle)))
    detach = flags.is_set("detach")
    terminal = config.process is not None and config.process.terminal
    console = foreground.Console(flags.text("console-socket"), wanted=terminal, detach=detach)
    options.console_fd = console.fd
    adopts = not detach and not flags.is_set("no-subreaper") and config.linux.namespace("pid") is None
    signals = None if detach else foreground.Signals(adopts=adopts)
    making = Restoration(options, Host(), images_of(flags, config, invocation.settings.text("criu")))
    making.restore()
    if signals is None:
        return 0
    try:
        status = foreground.stay(making.pidfd, signals, console.terminal() if making.has_terminal else None)
    except BaseException:
        ending.take_back(making.state, log.warning)
        raise
    for complaint in ending.destroy(making.state):
        log.warning(complaint)
    return status


def images_of(flags: Options, config: Config, program: str) -> Images:
    """What the command line says of images and of CRIU; raises InvalidArgument and NotFound."""
    path = files.absolute(flags.text("image-path") or checkpoint.DEFAULT_IMAGES)
    work = files.absolute(flags.text("work-path")) if flags.given("work-path") else path
    request = criu.Request()
    checkpoint.options_of(flags, request)
    for name in ("lsm-profile", "lsm-mount-context"):
        if flags.text(name):
            request.text(name.replace("-", "_"), flags.text(name))
    for name in ("notify_scripts", "rst_sibling", "evasive_devices", "orphan_pts_master"):
        request.number(name, 1)
    request.number("log_level", checkpoint.LOG_LEVEL)
    request.text("log_file", LOG_FILE)
    checkpoint.add_settings(request, config)
    for fd, key in enumerate(pipes_of(path)):
        if key:
            request.inherited(key, fd)
    files.make_directories(work, 0o700)
    return Images(path, work, LOG_FILE, request, criu.find(program or criu.PROGRAM))


def pipes_of(images: str) -> list[str]:
    """descriptors.json: `pipe:[INODE]` for each of stdin, stdout and stderr that was one, '' for the others."""
    path = f"{images}/{checkpoint.DESCRIPTORS}"
    try:
        found = fast.loads_from(path, files.read(path))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"open {path}: {files.why(error)}") from error
    if not (isinstance(found, list) and len(found) <= STDIO_COUNT and all(isinstance(one, str) for one in found)):
        raise InvalidArgument(f"{path}: not a list of three targets")
    return [one if one.startswith(PIPE) and one[len(PIPE) : -1].isdecimal() else "" for one in found]
