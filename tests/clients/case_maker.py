"""Requests that schemathesis makes of the API's description, as JSON lines; run by the interpreter of support.pypeers.

    python3 case_maker.py DESCRIPTION SEED COUNT OPERATIONS NAMES

OPERATIONS: a JSON list of `METHOD /path`, those that are asked; NAMES: a JSON object, the first part of a path and the
name of something that is there.  For each operation COUNT requests that the description allows and COUNT that it
forbids, with any name and with the one that is there; then those that cover each limit of its parameters.
A line is [METHOD, /path, target, headers, body (base64 or null)].
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import hypothesis  # type: ignore[import-not-found]
import schemathesis  # type: ignore[import-not-found]
from requests import Request

BASE = "http://engine"
ITS_OWN = {"User-Agent", "X-Schemathesis-TestCaseId", "Connection", "Accept-Encoding"}
FEW = 3  # requests of a kind: no more of them, and no limits
MODES = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)


def line(case: Any) -> str:
    """One request as it would go over the wire."""
    known = ("method", "url", "headers", "params", "data", "json", "cookies", "files")
    sent = {key: value for key, value in case.as_transport_kwargs(base_url=BASE).items() if key in known}
    ready = Request(**sent).prepare()
    body: Any = ready.body.encode() if isinstance(ready.body, str) else ready.body
    encoded = None if body is None else base64.b64encode(body).decode()
    headers = {name: str(value) for name, value in ready.headers.items() if name not in ITS_OWN}
    return json.dumps([ready.method, case.operation.path, ready.path_url, headers, encoded])


def taker(lines: list[str]) -> Callable[[Any], None]:
    """A function of one argument, as hypothesis wants it."""

    def take(case: Any) -> None:
        lines.append(line(case))

    return take


def drawn(operation: Any, seed: int, count: int, **fixed: Any) -> Iterator[str]:
    """`count` requests that are allowed and as many that are not, where there is such a thing."""
    for mode in MODES:
        lines: list[str] = []

        run = hypothesis.given(operation.as_strategy(generation_mode=mode, **fixed))(taker(lines))
        settings = hypothesis.settings(
            max_examples=count,
            database=None,
            deadline=None,
            phases=(hypothesis.Phase.generate,),
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        # there is nothing that it forbids, or its body is an archive
        with suppress(hypothesis.errors.Unsatisfiable, schemathesis.errors.SerializationNotPossible):
            hypothesis.seed(seed)(settings(run))()
        yield from lines[:count]


def covering(schema: Any, operation: Any) -> Iterator[str]:
    """Each limit of each parameter, and one beyond it."""
    cases = schema.iter_coverage_cases(
        operation, generation_modes=list(MODES), generation_config=schema.config.generation_for(operation=operation)
    )
    for case in cases:
        if case.method.upper() == operation.method.upper():
            with suppress(schemathesis.errors.SerializationNotPossible, ValueError):
                yield line(case)


def main() -> None:
    """Prints the lines."""
    path, seed, count, wanted, names = sys.argv[1:]
    asked, there = set(json.loads(wanted)), json.loads(names)
    schema = schemathesis.openapi.from_path(path)
    for found in schema.get_all_operations():
        operation = found.ok()
        if f"{operation.method.upper()} {operation.path}" not in asked:
            continue
        made = list(drawn(operation, int(seed), int(count)))
        name = there.get(operation.path.split("/")[1])
        if name and "{" in operation.path:
            key = operation.path.partition("{")[2].partition("}")[0]
            made += drawn(operation, int(seed), int(count), path_parameters={key: name})
        if int(count) > FEW:
            made += covering(schema, operation)
        for text in dict.fromkeys(made):
            print(text)


if __name__ == "__main__":
    main()
