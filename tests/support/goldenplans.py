"""The recorded plans, compiled anew: config.json, facts.json and case.json of tests/golden/plans."""

from __future__ import annotations

import json
from typing import Any

from corten.launch.compile import compile_exec, compile_init
from corten.launch.context import ExecContext, InitContext
from corten.launch.facts import facts_from_obj
from corten.launch.ops import Plan
from corten.spec.process import parse_process
from corten.spec.runtime import parse_config
from support import paths

PLANS = paths.REPOSITORY / "tests" / "golden" / "plans"
CASES = sorted(path.name for path in PLANS.iterdir())


def load(case: str, name: str) -> Any:
    return json.loads((PLANS / case / f"{name}.json").read_text())


def compiled(case: str) -> Plan:
    config, facts, entry = parse_config(load(case, "config")), facts_from_obj(load(case, "facts")), load(case, "case")
    context = dict(entry["context"])
    context["seccomp"] = bytes(8 * context.pop("seccomp_instructions", 0))
    if entry["kind"] == "exec":
        return compile_exec(config, parse_process(load(case, "process")), facts, ExecContext(**context))
    return compile_init(config, facts, InitContext(**context))


def plans() -> list[Plan]:
    """All of them."""
    return [compiled(case) for case in CASES]
