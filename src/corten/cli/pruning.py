"""What all verbs `prune` have in common: `--dry-run`, and how the result is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from corten.cli.command import Failure
from corten.cli.transport import Client
from corten.cli.units import human_size

_Function = TypeVar("_Function", bound=Callable[..., Any])


def dry_run_flag(function: _Function) -> _Function:
    """The option `--dry-run`."""
    text = "Show what would be removed, and remove nothing"
    return click.option("--dry-run", is_flag=True, help=text)(function)


def dry_query(client: Client, dry_run: bool) -> Mapping[str, Any]:
    """The query of it.  Raises Failure before anything is asked of an engine that would remove all the same."""
    if not dry_run:
        return {}
    if (client.json("GET", "/version").get("Platform") or {}).get("Name") != "Corten":
        raise Failure("--dry-run: the engine is not Corten: it would remove")
    return {"dry-run": True}


def write_pruned(what: str, found: Sequence[str] | None, size: int | None, dry_run: bool) -> None:
    """What is gone, or would be, one a line, and how much that is."""
    if found:
        print(title(what, dry_run), *found, "", sep="\n")
    print(total(size or 0, dry_run))


def title(what: str, dry_run: bool) -> str:
    """The line above the names."""
    return f"{'Would delete' if dry_run else 'Deleted'} {what}:"


def total(size: int, dry_run: bool) -> str:
    """The last line."""
    return f"Total {'space that would be reclaimed' if dry_run else 'reclaimed space'}: {human_size(size, 4)}"
