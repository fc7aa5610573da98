"""What may come next on a command line: verbs and flags from the commands themselves, names from the engine.

The shells' scripts (corten.cli.completion) call `corten __complete WORD…`, whose last word is the one being written,
as the scripts of Docker's CLI do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import click

from corten.cli.flags import OldName

Ask = Callable[[str], Sequence[str]]
"""Names of a kind: "container", "running", "image", "network", "volume"."""

# What one of few words may be.
_VALUES: dict[str, tuple[str, ...]] = {
    "--cgroupns": ("host", "private"),
    "--health-on-failure": ("none", "restart", "stop", "kill"),
    "--ipc": ("host", "none", "private", "shareable"),
    "--log-level": ("debug", "info", "warn", "error", "fatal"),
    "--pid": ("host",),
    "--pull": ("always", "missing", "never"),
    "--restart": ("no", "always", "on-failure", "unless-stopped"),
    "--type": ("container", "image", "network", "volume"),
    "--userns": ("host",),
    "--uts": ("host",),
}
_FROM_ENGINE = {"--network": "network", "--volumes-from": "container"}
# Verbs that are of use for what runs alone.
_RUNNING = frozenset(("attach", "exec", "kill", "pause", "port", "stats", "stop", "top"))
_KINDS = (
    *(("CONTAINER", "container"), ("IMAGE", "image"), ("NETWORK", "network")),
    *(("REPOSITORY", "image"), ("VOLUME", "volume")),
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A word, and one line about it."""

    text: str
    help: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """What may come; `is_file`: a path as well."""

    candidates: tuple[Candidate, ...]
    is_file: bool = False


def complete(root: click.Group, words: Sequence[str], ask: Ask) -> Choice:
    """The choice for the last of `words`, which follow the program's name; none for a line that makes no sense."""
    *before, current = words or [""]
    place = _walk(root, before)
    if place is None:
        return Choice(())
    if place.flag is not None:
        return _values(place.flag, current, "", ask)
    if current.startswith("-") and not place.is_operands_only:
        return _flags(place, current, ask)
    if isinstance(place.command, click.Group):
        return Choice(tuple(_beginning(current, _verbs(place.command, place.context))))
    return _operand(place, current, ask)


@dataclass(slots=True)
class _Place:
    """Where the line stands before the word that is written."""

    command: click.Command
    context: click.Context
    operands: int = 0
    flag: click.Option | None = None  # whose value comes next
    is_operands_only: bool = False  # behind `--`


def _walk(root: click.Group, words: Sequence[str]) -> _Place | None:
    place = _Place(root, click.Context(root, info_name=root.name))
    for word in words:
        if place.flag is not None:
            place.flag = None
        elif place.is_operands_only:
            place.operands += 1
        elif word == "--":
            place.is_operands_only = True
        elif word.startswith("-") and word != "-":
            place.flag = _waiting(place, word)
        elif isinstance(place.command, click.Group):
            found = place.command.get_command(place.context, word)
            if found is None:
                return None
            place = _Place(found, click.Context(found, parent=place.context, info_name=word))
        else:
            place.operands += 1
            place.is_operands_only = not _is_mixed(place.command)
    return place


def _is_mixed(command: click.Command) -> bool:
    """Whether flags may stand behind operands."""
    return bool(command.context_settings.get("allow_interspersed_args", command.allow_interspersed_args))


def _options(place: _Place) -> list[click.Option]:
    return [param for param in place.command.get_params(place.context) if isinstance(param, click.Option)]


def _waiting(place: _Place, word: str) -> click.Option | None:
    """The flag whose value is the next word."""
    if "=" in word:
        return None
    name = word if word.startswith("--") else f"-{word[-1]}"
    return next((one for one in _options(place) if name in one.opts and not one.is_flag), None)


def _flags(place: _Place, current: str, ask: Ask) -> Choice:
    name, equals, value = current.partition("=")
    if equals:
        option = next((one for one in _options(place) if name in one.opts), None)
        return Choice(()) if option is None else _values(option, value, f"{name}=", ask)
    return Choice(tuple(_beginning(current, _flag_names(place))))


def _flag_names(place: _Place) -> Iterator[Candidate]:
    for option in _options(place):
        for name in shown_names(option):
            yield Candidate(name, option.help or "")


def shown_names(option: click.Option) -> list[str]:
    """The names of a flag that Docker shows."""
    return [*(option.opts[:-1] if isinstance(option, OldName) else option.opts)]


def _values(option: click.Option, current: str, prefix: str, ask: Ask) -> Choice:
    names = [name for name in option.opts if name.startswith("--")]
    kind = next((_FROM_ENGINE[name] for name in names if name in _FROM_ENGINE), "")
    words: Sequence[str] = ("true", "false") if option.is_flag else ()
    if kind:
        words = ask(kind)
    words = next((_VALUES[name] for name in names if name in _VALUES), words)
    found = tuple(_beginning(prefix + current, (Candidate(prefix + word) for word in words)))
    return Choice(found, is_file=not words)


def _verbs(group: click.Group, context: click.Context) -> Iterator[Candidate]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is not None and not command.hidden:
            yield Candidate(name, command.get_short_help_str(200))


def _operand(place: _Place, current: str, ask: Ask) -> Choice:
    usage = str(getattr(place.command, "operands", "")).partition("\n")[0]
    kinds = [_kind(word) for word in re.findall(r"[^\s\[\]]+", usage.replace("[OPTIONS]", ""))]
    if not kinds:
        return Choice(())
    kind = kinds[min(place.operands, len(kinds) - 1)]
    if not kind:
        return Choice((), is_file=True)
    if kind == "container" and place.command.name in _RUNNING:
        kind = "running"
    if kind == "path":
        return Choice(tuple(_beginning(current, (Candidate(f"{name}:") for name in ask("container")))), is_file=True)
    return Choice(tuple(_beginning(current, map(Candidate, ask(kind)))))


def _kind(word: str) -> str:
    """The kind of an operand by its word in the usage line; empty for what the engine does not know."""
    if word.startswith("CONTAINER:"):
        return "path"
    word = word.removesuffix("...")
    return next((kind for start, kind in _KINDS if word.startswith(start)), "any" if word == "NAME|ID" else "")


def _beginning(start: str, candidates: Iterator[Candidate]) -> Iterator[Candidate]:
    return (one for one in candidates if one.text.startswith(start))
