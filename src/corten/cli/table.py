"""Tables and `--format`: `table TEMPLATE`, `json`, a Go template, or the verb's own columns."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from corten.cli.gotemplate import Template

Columns = Sequence[tuple[str, str]]  # (field, heading)


def write_rows(
    rows: Iterable[Mapping[str, Any]], columns: Columns, *, form: str = "", headings: Mapping[str, str]
) -> None:
    """Prints rows of already formatted values.

    `columns` are those of the default table; `headings` names every field that a template may use.
    """
    if form in ("json", "{{json .}}"):
        for row in rows:
            print(json.dumps(dict(sorted(row.items())), separators=(",", ":"), ensure_ascii=False))
    elif form and not form.startswith("table"):
        template = Template(_unescape(form))
        for row in rows:
            print(template.render(row))
    else:
        source = _unescape(form.removeprefix("table").lstrip()) or "\t".join(f"{{{{.{name}}}}}" for name, _ in columns)
        template = Template(source)
        first = template.render(_Headings({**headings, **dict(columns)}))
        align([line.split("\t") for line in (first, *(template.render(row) for row in rows))])


class _Headings(dict[str, str]):
    def get(self, key: str, default: Any = None) -> Any:
        return super().get(key, key.upper() if default is None else default)


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


def filters(values: Iterable[str]) -> str:
    """`-f name=x` options as Docker's JSON filter map; an empty string when there are none."""
    found: dict[str, dict[str, bool]] = {}
    for value in values:
        from corten.cli.command import Failure

        name, equals, wanted = value.partition("=")
        if not equals:
            raise Failure(f'invalid argument "{value}" for "-f, --filter" flag: invalid filter \'{value}\'', 125)
        found.setdefault(name.strip().lower(), {})[wanted.strip()] = True
    return json.dumps(found) if found else ""
