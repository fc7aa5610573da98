"""The command line of `corten-runtime`: runc's global flags, verbs and flags per verb, parsed by hand.

`argparse` costs 11 ms on a cold start.  The grammar is that of the Go programs whose place we take: `-name`
and `--name`, `--name value` and `--name=value` mean the same; a flag that takes no value may be given one
(`=false`); flags may follow arguments, except for `exec` and `ps`, whose rest is the command's own.

Sources: runc(8) and its pages per verb; what callers pass: field.md §2.5.
"""

from __future__ import annotations

from corten.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    FlagRow = tuple[str, str, str]

PROGRAM = "corten-runtime"
DEFAULT_ROOT = "/run/corten-runtime"

BOOL, TEXT, NUMBER, LIST, DURATION = "bool", "text", "number", "list", "duration"

GLOBAL_FLAGS: tuple[FlagRow, ...] = (
    ("debug", "", BOOL),
    ("log", "", TEXT),
    ("log-format", "", TEXT),
    ("root", "", TEXT),
    ("criu", "", TEXT),
    ("systemd-cgroup", "", BOOL),
    ("rootless", "", TEXT),
    ("cgroup-manager", "", TEXT),
    ("default-pids-limit", "", NUMBER),
    ("config", "", TEXT),
    ("help", "h", BOOL),
    ("version", "v", BOOL),
)

_BUNDLE: FlagRow = ("bundle", "b", TEXT)
_SPAWN: tuple[FlagRow, ...] = (
    ("console-socket", "", TEXT),
    ("pid-file", "", TEXT),
    ("pidfd-socket", "", TEXT),
    ("preserve-fds", "", NUMBER),
)
_CREATE: tuple[FlagRow, ...] = (_BUNDLE, *_SPAWN, ("no-pivot", "", BOOL), ("no-new-keyring", "", BOOL))
_IMAGE: tuple[FlagRow, ...] = (
    ("image-path", "", TEXT),
    ("work-path", "", TEXT),
    ("tcp-established", "", BOOL),
    ("ext-unix-sk", "", BOOL),
    ("shell-job", "", BOOL),
    ("lazy-pages", "", BOOL),
    ("file-locks", "", BOOL),
    ("manage-cgroups-mode", "", TEXT),
    ("empty-ns", "", LIST),
    ("auto-dedup", "", BOOL),
    ("link-remap", "", BOOL),
)


class Verb:
    """One row of the verb table: its flags, how many arguments it takes (-1: any), where flags end."""

    __slots__ = ("flags", "maximum", "minimum", "name", "rest_is_command")

    def __init__(
        self,
        name: str,
        minimum: int,
        maximum: int,
        flags: tuple[FlagRow, ...],
        *,
        rest_is_command: bool = False,
    ) -> None:
        self.name = name
        self.minimum = minimum
        self.maximum = maximum
        self.flags = (*flags, ("help", "h", BOOL))
        self.rest_is_command = rest_is_command


VERBS: dict[str, Verb] = {
    verb.name: verb
    for verb in (
        Verb("create", 1, 1, _CREATE),
        Verb("run", 1, 1, (*_CREATE, ("detach", "d", BOOL), ("keep", "", BOOL), ("no-subreaper", "", BOOL))),
        Verb("start", 1, 1, ()),
        Verb("state", 1, 1, ()),
        Verb("kill", 1, 2, (("all", "a", BOOL),)),
        Verb("delete", 1, 1, (("force", "f", BOOL),)),
        Verb(
            "exec",
            1,
            -1,
            (
                *_SPAWN,
                ("cwd", "", TEXT),
                ("env", "e", LIST),
                ("tty", "t", BOOL),
                ("user", "u", TEXT),
                ("additional-gids", "g", LIST),
                ("process", "p", TEXT),
                ("detach", "d", BOOL),
                ("process-label", "", TEXT),
                ("apparmor", "", TEXT),
                ("no-new-privs", "", BOOL),
                ("cap", "c", LIST),
                ("cgroup", "", LIST),
                ("ignore-paused", "", BOOL),
                ("no-subreaper", "", BOOL),
            ),
            rest_is_command=True,
        ),
        Verb("list", 0, 0, (("format", "f", TEXT), ("quiet", "q", BOOL))),
        Verb("ps", 1, -1, (("format", "f", TEXT),), rest_is_command=True),
        Verb("events", 1, 1, (("interval", "", DURATION), ("stats", "", BOOL))),
        Verb("pause", 1, 1, ()),
        Verb("resume", 1, 1, ()),
        Verb(
            "update",
            1,
            1,
            (
                ("resources", "r", TEXT),
                ("blkio-weight", "", NUMBER),
                ("cpu-period", "", TEXT),
                ("cpu-quota", "", TEXT),
                ("cpu-burst", "", TEXT),
                ("cpu-share", "", TEXT),
                ("cpu-rt-period", "", TEXT),
                ("cpu-rt-runtime", "", TEXT),
                ("cpu-idle", "", TEXT),
                ("cpuset-cpus", "", TEXT),
                ("cpuset-mems", "", TEXT),
                ("kernel-memory", "", TEXT),
                ("kernel-memory-tcp", "", TEXT),
                ("memory", "", TEXT),
                ("memory-reservation", "", TEXT),
                ("memory-swap", "", TEXT),
                ("pids-limit", "", NUMBER),
                ("l3-cache-schema", "", TEXT),
                ("mem-bw-schema", "", TEXT),
            ),
        ),
        Verb("spec", 0, 0, (_BUNDLE, ("rootless", "", BOOL))),
        Verb("features", 0, 0, ()),
        Verb("version", 0, 0, ()),
        Verb(
            "checkpoint",
            1,
            1,
            (
                *_IMAGE,
                ("parent-path", "", TEXT),
                ("leave-running", "", BOOL),
                ("status-fd", "", NUMBER),
                ("page-server", "", TEXT),
                ("pre-dump", "", BOOL),
                ("tcp-skip-in-flight", "", BOOL),
            ),
        ),
        Verb(
            "restore",
            1,
            1,
            (
                *_IMAGE,
                _BUNDLE,
                ("console-socket", "", TEXT),
                ("detach", "d", BOOL),
                ("pid-file", "", TEXT),
                ("no-subreaper", "", BOOL),
                ("no-pivot", "", BOOL),
                ("lsm-profile", "", TEXT),
                ("lsm-mount-context", "", TEXT),
            ),
        ),
        Verb("plan", 0, 1, (_BUNDLE, ("no-pivot", "", BOOL), ("no-new-keyring", "", BOOL))),
    )
}


class UsageError(InvalidArgument):
    """A command line that does not fit the tables; `verb` is empty when it already fails before the verb.

    `settings` are the global flags, as far as they were read: they say where the error is told.
    """

    def __init__(self, text: str, verb: str = "", status: int = 1) -> None:
        super().__init__(text)
        self.verb = verb
        self.status = status
        self.settings = Options()


class Options:
    """The flags that were given, by long name."""

    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values: dict[str, list[str]] = {}

    def add(self, name: str, value: str) -> None:
        self._values.setdefault(name, []).append(value)

    def given(self, name: str) -> bool:
        """Whether the flag stood on the command line."""
        return name in self._values

    def text(self, name: str, default: str = "") -> str:
        """The last value of a flag."""
        values = self._values.get(name)
        return values[-1] if values else default

    def is_set(self, name: str) -> bool:
        """A flag without value."""
        return self.text(name) == "true"

    def number(self, name: str, default: int = 0) -> int:
        """The last value of a number flag, checked when it was parsed."""
        text = self.text(name)
        return int(text, 0) if text else default

    def items(self, name: str) -> list[str]:
        """Every value of a flag that may be repeated."""
        return self._values.get(name, [])


class Invocation:
    """A parsed command line."""

    __slots__ = ("arguments", "options", "settings", "verb")

    def __init__(self, verb: str, settings: Options, options: Options, arguments: list[str]) -> None:
        self.verb = verb
        self.settings = settings
        self.options = options
        self.arguments = arguments


def parse(argv: Sequence[str]) -> Invocation:
    """The invocation of `argv` (program name first); raises UsageError in runc's words.

    `help` and `version` are not acted on here: they are options like others, and excuse missing arguments.
    """
    settings = Options()
    try:
        return _parse(argv[1:], settings)
    except UsageError as error:
        error.settings = settings
        raise


def _parse(words: Sequence[str], settings: Options) -> Invocation:
    rest = _take_flags(words, GLOBAL_FLAGS, settings, "", rest_is_command=True)
    if not rest:
        return Invocation("", settings, Options(), [])
    name = rest[0]
    if name in ("help", "h"):
        settings.add("help", "true")
        return Invocation("", settings, Options(), [])
    verb = VERBS.get(name)
    if verb is None:
        raise UsageError(f"No help topic for '{name}'", status=3)
    options = Options()
    arguments = _take_flags(rest[1:], verb.flags, options, name, rest_is_command=verb.rest_is_command)
    if not options.is_set("help"):
        _check_count(verb, arguments)
    return Invocation(name, settings, options, arguments)


def _take_flags(
    words: Sequence[str], rows: tuple[FlagRow, ...], options: Options, verb: str, *, rest_is_command: bool
) -> list[str]:
    """Puts the flags among `words` into `options`; the other words."""
    kinds = {name: (name, kind) for name, _, kind in rows}
    kinds.update({short: (name, kind) for name, short, kind in rows if short})
    arguments: list[str] = []
    index = 0
    while index < len(words):
        word = words[index]
        index += 1
        if word == "--":
            return arguments + list(words[index:])
        if word == "-" or not word.startswith("-"):
            if rest_is_command:
                return [*arguments, *words[index - 1 :]]
            arguments.append(word)
            continue
        spelled, has_value, value = word.lstrip("-").partition("=")
        if spelled not in kinds:
            raise UsageError(f"flag provided but not defined: -{spelled}", verb)
        name, kind = kinds[spelled]
        if not has_value and kind != BOOL:
            if index == len(words):
                raise UsageError(f"flag needs an argument: -{spelled}", verb)
            value = words[index]
            index += 1
        options.add(name, _checked(value if has_value or kind != BOOL else "true", kind, spelled, verb))
    return arguments


def _checked(value: str, kind: str, spelled: str, verb: str) -> str:
    """A flag's value in its normal form."""
    if kind == BOOL:
        truth = {"1": "true", "t": "true", "true": "true", "0": "false", "f": "false", "false": "false"}
        if value.lower() not in truth:
            raise UsageError(f'invalid boolean value "{value}" for -{spelled}: parse error', verb)
        return truth[value.lower()]
    if kind == NUMBER:
        try:
            fits = -(1 << 63) <= int(value, 0) < 1 << 63
        except ValueError:
            raise UsageError(f'invalid value "{value}" for flag -{spelled}: parse error', verb) from None
        if not fits:
            raise UsageError(f'invalid value "{value}" for flag -{spelled}: value out of range', verb)
    if kind == DURATION:
        from corten.spec.units import parse_duration_ns

        try:
            parse_duration_ns(value)
        except ValueError:
            raise UsageError(f'invalid value "{value}" for flag -{spelled}: parse error', verb) from None
    return value


def _check_count(verb: Verb, arguments: list[str]) -> None:
    count = len(arguments)
    if verb.minimum == verb.maximum and count != verb.minimum:
        wanted = f"exactly {verb.minimum}"
    elif count < verb.minimum:
        wanted = f"a minimum of {verb.minimum}"
    elif 0 <= verb.maximum < count:
        wanted = f"a maximum of {verb.maximum}"
    else:
        return
    raise UsageError(f'{PROGRAM}: "{verb.name}" requires {wanted} argument(s)', verb.name)
