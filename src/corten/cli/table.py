"""Tables and `--format`: `table TEMPLATE`, `json`, a Go template, or the verb's own columns."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import click

from corten import errors
from corten.cli.command import Failure
from corten.cli.flags import Value
from corten.cli.gojson import go_json
from corten.cli.gostruct import MISSING, Struct
from corten.cli.gotemplate import ParseError, Template

# in `--format raw` these have no space in front when they are empty
_RAW_EMPTY = {name: f"{{{{if .{name}}}}} {{{{.{name}}}}}{{{{end}}}}" for name in ("Labels", "Ports")}
_PARSING = "template parsing error: "
_Function = TypeVar("_Function", bound=Callable[..., Any])
Columns = Sequence[tuple[str, str]]  # (field, heading)
FORMAT = "Format output using a custom template: `table`, `table TEMPLATE`, `json`, or a template of Go"


def write_rows(
    rows: Iterable[Mapping[str, Any]],
    columns: Columns,
    *,
    form: str = "",
    headings: Mapping[str, str],
    kind: str,
    failed: str = "",
) -> None:
    """Prints rows of already formatted values; a function among them is a method, which JSON leaves out.

    `columns` are those of the default table; `headings` names every field that a template may use, `kind` the type
    in Docker's message about one that it may not, `failed` what that message begins with.
    """
    if form in ("json", "{{json .}}"):
        for row in rows:
            print(go_json({key: value for key, value in sorted(row.items()) if not callable(value)}))
        return
    is_table = not form or form.startswith("table")
    source = _unescape(form.removeprefix("table").lstrip() if is_table else form)
    source = source or "\t".join(f"{{{{.{name}}}}}" for name, _ in columns)
    try:
        template = Template(source)
    except ParseError as error:
        raise Failure(f"{failed} parse template: {error.text}" if failed else _PARSING + error.text) from None
    reason = f"can't evaluate field {{}} in type *{kind}"
    try:
        lines = [template.render(Struct(row, row, reason)) for row in rows]
        names = {**headings, **dict(columns)}
        head = template.render(_Headings(names, names, reason)) if is_table else ""
    except errors.InvalidArgument as error:
        raise Failure(f"{failed} execute template: {error.text}" if failed else _PARSING + error.text) from None
    if is_table:
        align([line.split("\t") for line in (head, *lines)])
        return
    for line in lines:
        print(line)


def raw_template(fields: Iterable[tuple[str, str]]) -> str:
    """The template behind `--format raw`: one `name: value` a line, an empty line behind a row."""
    return "".join(f"{title}:{_RAW_EMPTY.get(name, f' {{{{.{name}}}}}')}\n" for title, name in fields)


class _Headings(Struct):
    """Headings; that of `.Label "x"` is x."""

    def field(self, name: str) -> Any:
        return self.get(name, (lambda title: title) if name == "Label" else MISSING)


def _unescape(text: str) -> str:
    return text.replace("\\t", "\t").replace("\\n", "\n")


def align(lines: Sequence[Sequence[str]], *, least: int = 10, gap: int = 3) -> None:
    """Prints cells in columns of at least `least` characters, as Go's tabwriter does for Docker.

    The last column is not padded.
    """
    widths: list[int] = []
    for cells in lines:
        for index, cell in enumerate(cells[:-1]):
            if index == len(widths):
                widths.append(least)
            widths[index] = max(widths[index], len(cell) + gap)
    for cells in lines:
        padded = [cell.ljust(widths[index]) for index, cell in enumerate(cells[:-1])]
        sys.stdout.write("".join(padded) + (cells[-1] if cells else "") + "\n")


def ellipsis(text: str, limit: int) -> str:
    """At most `limit` characters, the last of them `…` when something was cut."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def filter_flag(*names: str) -> Callable[[_Function], _Function]:
    """The option `--filter`, which may stand several times."""
    text = "Filter output based on conditions provided (`name=value`)"
    return click.option(*names, "filter_", multiple=True, type=Value(_check_filter), help=text)


def _check_filter(text: str) -> None:
    """Raises `InvalidArgument` unless it is `name=value`; nothing at all is as good as no filter."""
    if text and "=" not in text:
        raise errors.InvalidArgument("bad format of filter (expected name=value)")


def filters(values: Iterable[str]) -> str:
    """`-f name=x` options as Docker's JSON filter map; an empty string when there are none."""
    found: dict[str, dict[str, bool]] = {}
    for value in filter(None, values):
        name, _, wanted = value.partition("=")
        found.setdefault(name.strip().lower(), {})[wanted.strip()] = True
    return json.dumps(found) if found else ""
