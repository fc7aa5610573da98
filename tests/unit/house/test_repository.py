"""What every file of the repository has in common."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import corten
from support import paths

# Written in pieces, so that this file does not find itself.
FORBIDDEN = {
    "a path of one machine": re.compile(r"/wo" r"rk/(main|contract|shared)|/roo" r"t/\.py" r"env"),
    "a host of somebody's own registry": re.compile(r"pkg\.de" r"v\b|artifact" r"registry|[a-z]\.gcr\.i" r"o"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIV" r"ATE KEY"),
}
UNFINISHED = re.compile(r"\bTO" r"DO\b|\bFIX" r"ME\b|\bX" r"XX\b|NotImplemented" r"Error")

MODULE_LINES = 500
FUNCTION_LINES = 60

# Files that may be longer, each with its reason.
LONGER: dict[str, str] = {}


def files() -> list[Path]:
    """Every file that git tracks, relative to the top."""
    done = subprocess.run(
        ["git", "-C", paths.REPOSITORY, "-c", "safe.directory=*", "ls-files", "-z"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    names = [name for name in done.stdout.split("\0") if name]
    return [Path(name) for name in names if (paths.REPOSITORY / name).is_file()]


def text(path: Path) -> str:
    """A tracked file as text; "" for a binary one."""
    data = (paths.REPOSITORY / path).read_bytes()
    return "" if b"\0" in data else data.decode(errors="replace")


def python(top: str = "") -> list[Path]:
    """Every tracked module below a folder."""
    return [path for path in files() if path.suffix == ".py" and str(path).startswith(top)]


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_names(what: str) -> None:
    found = [
        f"{path}:{number}: {line.strip()[:100]}"
        for path in files()
        for number, line in enumerate(text(path).splitlines(), 1)
        if FORBIDDEN[what].search(line)
    ]
    assert not found, "\n".join(found)


def test_nothing_in_the_source_says_that_it_is_unfinished() -> None:
    found = [
        f"{path}:{number}: {line.strip()[:100]}"
        for path in files()
        if path.parts[0] in {"src", "launcher", "tools"}
        for number, line in enumerate(text(path).splitlines(), 1)
        if UNFINISHED.search(line)
    ]
    assert not found, "\n".join(found)


def test_every_module_says_what_it_is() -> None:
    silent = []
    for path in python():
        tree = ast.parse(text(path))
        if tree.body and not ast.get_docstring(tree):
            silent.append(str(path))
    assert not silent, "\n".join(silent)


def test_modules_and_functions_stay_short() -> None:
    long = []
    for path in python():
        if (count := text(path).count("\n")) > MODULE_LINES and str(path) not in LONGER:
            long.append(f"{path}: {count} lines")
        for node in functions(ast.parse(text(path))):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES:
                long.append(f"{path}:{node.lineno}: {node.name}: {lines} lines")
    assert not long, "\n".join(long)


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function of a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_broad_excepts_stand_only_where_a_program_ends() -> None:
    """`except Exception` belongs to the outermost loop of a program, and says so on its line."""
    found = []
    for path in python("src/"):
        lines = text(path).splitlines()
        found += [
            f"{path}:{node.lineno}"
            for node in ast.walk(ast.parse(text(path)))
            if isinstance(node, ast.ExceptHandler) and is_broad(node) and "outermost" not in lines[node.lineno - 1]
        ]
    assert not found, "\n".join(found)


def is_broad(handler: ast.ExceptHandler) -> bool:
    """Whether a handler takes every error and does not raise it again."""
    takes_all = handler.type is None or ast.unparse(handler.type) in {"Exception", "BaseException"}
    raises = any(isinstance(node, ast.Raise) for node in ast.walk(handler))
    return takes_all and not raises


def test_the_changelog_begins_with_the_version_of_the_package() -> None:
    versions = re.findall(r"^## (\d+\.\d+\.\d+)", text(Path("CHANGELOG.md")), re.MULTILINE)
    assert versions[0] == corten.__version__


def test_every_dependency_has_its_reason() -> None:
    """docs/dependencies.md names each package of pip, of apt, and the C libraries."""
    project = tomllib.loads(text(Path("pyproject.toml")))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[<>=]", line)[0] for line in wanted}
    for line in re.findall(r'^(?:run|dev)_packages\w*="([^"]+)"', text(Path("tools/setup.sh")), re.MULTILINE):
        names |= set(line.split())
    page = text(Path("docs/dependencies.md"))
    missing = {name for name in names if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", page)}
    assert not missing


def test_tests_and_tools_start_the_docker_cli_that_they_found_and_not_one_from_path() -> None:
    """A fresh machine has none in PATH: `support.peers.docker_cli`."""
    found = [
        f"{path}:{line}"
        for top in ("tests/", "bench/", "tools/")
        for path in python(top)
        for line in bare_docker(ast.parse(text(path)))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("source", "is_bare"),
    [
        ('run(["docker", "ps"])', True),
        ('run(("docker", *args), check=True)', True),
        ('command = ["docker", "-H", host]', True),
        ('run([docker_cli(), "docker"])', False),
        ('NAMES = ("docker", "containerd")', True),
        ('parser.add_argument("--format", choices=("docker", "oci"))', False),
        ('NAMES = ("containerd", *("docker", "cri"))', False),
    ],
)
def test_a_bare_docker_is_found_where_it_is_the_first_word_of_a_command(source: str, is_bare: bool) -> None:
    assert bool(bare_docker(ast.parse(source))) == is_bare


def bare_docker(tree: ast.AST) -> list[int]:
    """Lines of lists and tuples that begin with the word; neither a call's `choices` nor what is spread in another."""
    others = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.Starred) or (isinstance(node, ast.keyword) and node.arg == "choices")
        for inner in ast.walk(node)
    }
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.List | ast.Tuple) and id(node) not in others and node.elts
        if isinstance(node.elts[0], ast.Constant) and node.elts[0].value == "docker"
    ]
