"""The node's defaults for containers, from the command line or one small JSON file.

    /etc/corten/runtime.json     {"default-pids-limit": 500,
                                  "default-rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}],
                                  "masked-paths": ["/proc/kallsyms"],
                                  "seccomp": [{"names": ["io_uring_setup"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]}

`--config FILE` names another file, which must then exist; `--default-pids-limit N` goes before it.  What the words mean
beside a bundle's is in `corten.runtime.effective`.
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
    from corten.runtime.effective import Node

CONFIG_PATH = "/etc/corten/runtime.json"
PIDS_KEY, RLIMITS_KEY, MASKED_KEY, SECCOMP_KEY = "default-pids-limit", "default-rlimits", "masked-paths", "seccomp"
KEYS = frozenset((PIDS_KEY, RLIMITS_KEY, MASKED_KEY, SECCOMP_KEY))
RULE_KEYS = frozenset(("names", "action", "errnoRet", "args"))

# A filter compares 64 bits of an argument, of most of which the kernel reads 32: what a number in the upper half
# makes false, and so evades a rule that refuses, and what it makes true, and so evades one that lets the call pass
EVADED_REFUSALS = frozenset(("SCMP_CMP_EQ", "SCMP_CMP_LT", "SCMP_CMP_LE"))
EVADED_ALLOWANCES = frozenset(("SCMP_CMP_NE", "SCMP_CMP_GT", "SCMP_CMP_GE"))
MASKED = "SCMP_CMP_MASKED_EQ"
LOWER_HALF, U64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF
# where the arguments of a call are that a 32-bit program makes by another one, socketcall(2), ipc(2)
HIDDEN = {"socketcall": "lie in memory, which no filter sees", "ipc": "have other places there"}


class Defaults:
    """What the node says; `node` is None where it says nothing but a pids limit."""

    __slots__ = ("node", "pids_limit", "pids_limit_origin")

    def __init__(self, pids_limit: int, pids_limit_origin: str, node: Node | None) -> None:
        self.pids_limit = pids_limit
        self.pids_limit_origin = pids_limit_origin
        self.node = node


def of(settings: Options) -> Defaults:
    """The defaults of one invocation; raises InvalidArgument naming file and key, NotFound for a file that is named."""
    found = of_file(settings.text("config", CONFIG_PATH), required=settings.given("config"))
    if settings.given(PIDS_KEY):
        return Defaults(checked(settings.number(PIDS_KEY), f"--{PIDS_KEY}"), f"--{PIDS_KEY}", found.node)
    return found


def of_file(path: str, *, required: bool) -> Defaults:
    """What a node's file says, for the command and for cortend; raises as `of`."""
    values = read(path, required=required)
    node = node_of(path, values) if len(values) > (PIDS_KEY in values) else None
    limit = values.get(PIDS_KEY)
    if limit is None:
        return Defaults(BUILT_IN_PIDS_LIMIT, BUILT_IN, node)
    return Defaults(checked(limit, f"{path}: {PIDS_KEY}"), path, node)


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
    values = fast.loads_from(path, content)
    if not isinstance(values, dict):
        raise InvalidArgument(f"{path}: expected an object")
    for key in values:
        if key not in KEYS:
            raise InvalidArgument(f"{path}: unknown key {key!r}")
    return values


def node_of(path: str, values: dict[str, Any]) -> Node:
    """The keys beside the pids limit, in the forms that the runtime specification has for them."""
    from corten.runtime.effective import Node
    from corten.spec.process import RLIMITS, read_rlimits
    from corten.spec.reader import Reader

    reader = Reader.of(values, path)
    masked = reader.strings(MASKED_KEY)
    for place in masked:
        if not place.startswith("/"):
            raise InvalidArgument(f"{path}.{MASKED_KEY}: {place!r} is not an absolute path")
    for item in reader.children(RLIMITS_KEY):
        if item.string("type") not in RLIMITS:
            raise InvalidArgument(
                f"{item.where}.type: {item.string('type')!r} is not a limit's name, as RLIMIT_CORE is"
            )
    limits = read_rlimits(reader, RLIMITS_KEY)
    return Node(
        path,
        rlimits=tuple((RLIMITS[limit.type], limit.soft, limit.hard) for limit in limits),
        masked_paths=masked,
        seccomp=tuple(_rule(rule) for rule in reader.children(SECCOMP_KEY)),
    )


def _rule(reader: Any) -> dict[str, Any]:
    """One rule; what libseccomp makes of its words is checked when it is compiled."""
    if not reader.strings("names"):
        raise InvalidArgument(f"{reader.where}.names: expected names of system calls")
    reader.string("action", required=True)
    for key in reader.obj:
        if key not in RULE_KEYS:
            raise InvalidArgument(f"{reader.where}: unknown key {key!r}")
    if conditions := reader.children("args"):
        from corten.launch.context import PERMISSIVE

        _check_seen(reader)
        for argument in conditions:
            _check_condition(argument, refuses=reader.string("action") not in PERMISSIVE)
    return dict(reader.obj)


def _check_seen(reader: Any) -> None:
    """Refuses a condition for calls whose arguments a filter does not see in their places, and for the calls that these
    are made by: argument 0 of those, which it sees, is what naming a call says."""
    from corten.runtime.effective import DOORS

    for name in reader.strings("names"):
        if name in DOORS:
            raise InvalidArgument(
                f"{reader.where}.args: argument 0 of {name} is the number of another call: "
                "a rule without args that names that call holds for it"
            )
        for door, calls in DOORS.items():
            if name in calls:
                raise InvalidArgument(
                    f"{reader.where}.args: 32-bit programs make {name} by {door}: its arguments {HIDDEN[door]}"
                )


def _check_condition(argument: Any, *, refuses: bool) -> None:
    """Refuses a comparison that a number in the upper half of the argument evades, and one that is never true."""
    word = argument.string("op")
    if word in (EVADED_REFUSALS if refuses else EVADED_ALLOWANCES):
        raise InvalidArgument(
            f"{argument.where}.op: {word} compares 64 bits, of which the kernel reads 32 for most arguments: "
            f"{MASKED} with value {LOWER_HALF} and the number in valueTwo holds"
        )
    if word == MASKED:
        mask = argument.integer("value", high=U64)
        if refuses and mask > LOWER_HALF:
            raise InvalidArgument(f"{argument.where}.value: a mask of more than 32 bits, of which the kernel reads 32")
        if argument.integer("valueTwo", high=U64) & ~mask:
            raise InvalidArgument(f"{argument.where}.valueTwo: a bit outside the mask, which is never found")
