"""Makes `.venv`: the packages that pyproject.toml names, and the four commands.

Run by tools/setup.sh with the interpreter that is to run Corten: the real binary, never a version manager's shim.
Standard library alone; quiet unless something is installed or wrong.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
CONSTRAINTS = ROOT / "tools" / "constraints.txt"
SHEBANG_LIMIT = 255  # BINPRM_BUF_SIZE - 1, kernel >= 5.1

# -I: no user site, no current directory, no PYTHON* variables; -S: no site, hence no .pth files.
# A path at the end of sys.path costs nothing until a module is asked for that no earlier entry has.
COMMAND = """\
#!{interpreter} -ISE
import sys
sys.path.insert(0, {source!r}){packages}
from corten.{room}.main import main
sys.exit(main(sys.argv))
"""
PACKAGES = "\nsys.path.append({packages!r})"

# command: (room, whether it may import what pip installed)
COMMANDS = {
    "corten": ("cli", True),
    "cortend": ("daemon", True),
    "corten-runtime": ("runtime", False),
    "corten-shim": ("shim", False),
}


def main(level: str) -> int:
    """Brings `.venv` to `level` ("run" or "dev"); 0, or 1 after one line on stderr."""
    try:
        make_venv()
        install(requirements(level))
        write_commands()
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    return 0


def make_venv() -> None:
    """Makes `.venv`, or makes it anew when it belongs to another interpreter or another place."""
    if venv_fits():
        return
    print(f"setup: .venv from {sys.executable}", flush=True)
    subprocess.run([sys.executable, "-I", "-m", "venv", "--clear", str(VENV)], check=True)


def venv_fits() -> bool:
    """Whether `.venv` runs this very interpreter and has a pip that works where it stands."""
    python = VENV / "bin" / "python3"
    pip = VENV / "bin" / "pip"
    if not python.exists() or os.path.realpath(python) != os.path.realpath(sys.executable):
        return False
    return pip.exists() and pip.read_text(encoding="utf-8").splitlines()[0].startswith(f"#!{VENV}/")


def requirements(level: str) -> list[str]:
    """The requirement lines of pyproject.toml for `level`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extra = project["optional-dependencies"]["dev"] if level == "dev" else []
    return [*project["dependencies"], *extra]


def install(wanted: list[str]) -> None:
    """Installs `wanted` at the versions of constraints.txt; where one of them is not to be had, at any that fits."""
    if pinned() <= installed() and not missing(wanted):
        return
    print("setup: pip install " + " ".join(re.split(r"[<>=]", name)[0] for name in wanted), flush=True)
    command = [str(VENV / "bin" / "python3"), "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if os.geteuid() == 0:
        command += ["--root-user-action", "ignore"]
    constrained = subprocess.run([*command, "-c", str(CONSTRAINTS), *wanted], check=False, stderr=subprocess.PIPE)
    if constrained.returncode == 0:
        return
    print("setup: not all versions of tools/constraints.txt are to be had here: taking others", flush=True)
    subprocess.run([*command, *wanted], check=True)


def installed() -> set[str]:
    """`name==version`, normalized, of everything in `.venv`."""
    found = set()
    for info in site_packages().glob("*.dist-info"):
        name, _, version = info.name.removesuffix(".dist-info").rpartition("-")
        found.add(f"{normal(name)}=={version}")
    return found


def pinned() -> set[str]:
    """The lines of constraints.txt whose package is installed or wanted at all."""
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    present = {line.split("==")[0] for line in installed()}
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {f"{normal(name)}=={version}" for name, version in pairs if normal(name) in present}


def missing(wanted: list[str]) -> bool:
    """Whether a requirement has no installed package of its name."""
    present = {line.split("==")[0] for line in installed()}
    return any(normal(re.split(r"[<>=\[]", name)[0]) not in present for name in wanted)


def normal(name: str) -> str:
    """A package name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def site_packages() -> Path:
    """Where pip puts packages in `.venv`."""
    return VENV / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def write_commands() -> None:
    """Writes the four files of `.venv/bin`, each by rename, so that a running engine never reads half a file."""
    interpreter = os.path.realpath(sys.executable)
    if len(f"#!{interpreter} -ISE") > SHEBANG_LIMIT:
        raise ValueError(f"interpreter path {interpreter} is too long for the first line of a command")
    for name, (room, with_packages) in COMMANDS.items():
        packages = PACKAGES.format(packages=str(site_packages())) if with_packages else ""
        text = COMMAND.format(interpreter=interpreter, source=str(ROOT / "src"), packages=packages, room=room)
        target = VENV / "bin" / name
        if target.exists() and target.read_text(encoding="utf-8") == text:
            continue
        fresh = target.with_name(f".{name}.new")
        fresh.write_text(text, encoding="utf-8")
        fresh.chmod(0o755)
        fresh.rename(target)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
