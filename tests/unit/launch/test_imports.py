"""What a cold start pays for: the modules that compiling and spawning load (design.md §7, "Import budget")."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

SOURCE = Path(__file__).parents[3] / "src"
MODULES = (
    "corten.launch.compile",
    "corten.launch.spawn",
    "corten.launch.seccomp",
    "corten.launch.facts",
    "corten.spec.runtime",
)
COLD = (
    "import sys; before = set(sys.modules); sys.path.insert(0, sys.argv[1]);"
    f"import {', '.join(MODULES)};"
    "print(*sorted(set(sys.modules) - before))"
)
ALLOWED = {"__future__", "_struct", "fcntl", "_json", "_blake2", "posix"}


def test_compiling_and_spawning_load_only_what_the_budget_allows() -> None:
    done = subprocess.run(
        [sys.executable, "-ISE", "-c", COLD, str(SOURCE)], check=True, stdout=subprocess.PIPE, text=True
    )
    loaded = set(done.stdout.split())
    ours = {name for name in loaded if name.split(".")[0] == "corten"}
    assert loaded - ours <= ALLOWED
    assert "corten.launch.seccomp_compile" not in ours
    assert {name.split(".")[1] for name in ours if "." in name} == {"errors", "spec", "launch"}


def imported(node: ast.AST) -> Iterator[str]:
    """Names of modules of corten.launch that are imported anywhere below `node`, but for the type checker."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.ImportFrom) and child.module == "corten.launch":
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and (child.module or "").startswith("corten.launch."):
            yield (child.module or "").removeprefix("corten.launch.")
        else:
            yield from imported(child)


def test_no_module_imports_itself_through_others_not_even_in_a_function() -> None:
    files = sorted((SOURCE / "corten/launch").glob("*.py"))
    graph = {path.stem: set(imported(ast.parse(path.read_text(encoding="utf-8")))) for path in files}
    assert "filesystem" in graph["compile"]
    TopologicalSorter(graph).prepare()
