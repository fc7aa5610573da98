"""Builds of Corten with one defending step taken out, for the twins of attacks.

The sources are copied and edited by exact replacement: the shipped ones have no switch that turns a defence off.
`modules` of a build are imported beside the real ones, its `commands` (cortend, corten-shim, corten-runtime) run as
programs, with its own launcher.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import paths, weakened
from support.weakened import Edit

# Names of an archive given to the kernel as they are, not taken apart.
NAMES: tuple[Edit, ...] = (
    (
        "core/tree.py",
        "place = self._walk(components(name))",
        "place = self._keep(os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._root.fd), name)",
    ),
    ("core/tree.py", 'if base in (b"", b".", b"..") or b".." in head:', 'if base in (b"", b".", b".."):'),
)
# openat2(2) without its rules: links are followed, `..` and mount points too.
LINKS: tuple[Edit, ...] = (
    (
        "sys/openat2.py",
        'struct.pack("=QQQ", flags | os.O_CLOEXEC, mode, resolve)',
        'struct.pack("=QQQ", (flags | os.O_CLOEXEC) & ~os.O_NOFOLLOW, mode, 0)',
    ),
)
# The same for the paths of `cp` alone.
COPIED: tuple[Edit, ...] = (
    (
        "core/inside.py",
        "openat2(self.fd, name, _NAME, resolve=ENTER)",
        "os.open(name, O_PATH | os.O_CLOEXEC, dir_fd=self.fd)",
    ),
)
# A link is looked for before the directory is opened, and not while it is: the gap that a race needs.
LOOKED_FOR: tuple[Edit, ...] = (
    *LINKS,
    (
        "core/tree.py",
        "            return self._keep(openat2(place.fd, name, _DIRECTORY), path)",
        "            if stat.S_ISLNK(os.lstat(name, dir_fd=place.fd).st_mode):\n"
        "                return os.readlink(name, dir_fd=place.fd)\n"
        "            return self._keep(openat2(place.fd, name, _DIRECTORY), path)",
    ),
)
# A file is opened, whatever is there.
CREATION: tuple[Edit, ...] = (
    (
        "core/unpack.py",
        "os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC",
        "os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC",
    ),
)
WHITEOUT_NAMES: tuple[Edit, ...] = (("core/unpack.py", 'if name in (b"", b".", b".."):', 'if name in (b"", b"."):'),)
# Folders that everybody may enter.
OPEN_FOLDERS: tuple[Edit, ...] = (
    ("core/dataroot.py", '("snapshots", 0o710)', '("snapshots", 0o755)'),
    ("core/dataroot.py", "os.chmod(path, 0o710)", "os.chmod(path, 0o755)"),
    ("core/snapshots.py", "os.makedirs(self._staging, 0o700, exist_ok=True)", "os.makedirs(self._staging, 0o755)"),
    ("core/snapshots.py", "SNAPSHOT_MODE = 0o710", "SNAPSHOT_MODE = 0o755"),
)
# Names with NUL, refused twice: in the records of the archive, and before the system call.
NUL: tuple[Edit, ...] = (
    ("core/tarheader.py", 'if key in (b"path", b"linkpath") and b"\\0" in value:', "if False:"),
    ("core/tarreader.py", 'if b"\\0" in name:', "if False:"),
    ("sys/openat2.py", 'if b"\\0" in path:', "if False:"),
)
FOREIGN_XATTRS: tuple[Edit, ...] = (
    (
        "core/unpack.py",
        'FOREIGN_XATTRS = (b"trusted.overlay.", b"user.overlay.", b"security.selinux", b"security.ima", '
        'b"security.evm")',
        'FOREIGN_XATTRS = (b"\\xff",)',
    ),
)
# A blob is believed to be what its name says.
DIGESTS: tuple[Edit, ...] = (
    ("core/content.py", "if expected and hashed.digest != expected:", "if False:"),
    ("core/content.py", "keep(hashed.digest)\n", "keep(Digest(expected or hashed.digest))\n"),
    (
        "core/content.py",
        "self._appear(temporary, self._path(hashed.digest))",
        "self._appear(temporary, self._path(expected or hashed.digest))",
    ),
    (
        "core/content.py",
        "return Blob(hashed.digest, hashed.size)",
        "return Blob(Digest(expected or hashed.digest), hashed.size)",
    ),
)
# The same of what an archive names so.
BLOB_NAMES: tuple[Edit, ...] = (
    ("core/members.py", "if blob.digest != digest:", "if False:"),
    (
        "core/archive.py",
        "layers_of([layer.digest for layer in manifest.layers], config.diff_ids)",
        "layers_of([members.known(layer.digest).digest for layer in manifest.layers], config.diff_ids)",
    ),
)
DOCUMENT_NAMES: tuple[Edit, ...] = (("core/members.py", "if digest_of(data) != digest:", "if False:"),)
DIFF_IDS: tuple[Edit, ...] = (("core/layers.py", "if hashed.digest != layer.diff_id:", "if False:"),)
DIGEST_FORM: tuple[Edit, ...] = (("core/content.py", 'parse_digest(digest).partition(":")', 'digest.partition(":")'),)
# What one call of the library unpacks, and nothing behind it.
MEMBERS: tuple[Edit, ...] = (
    ("core/streams.py", "data, member = member.unused_data, None", 'data, member = b"", None\n                return'),
)

# What proves who the user is goes wherever a redirect leads (CVE-2020-15157) …
REDIRECTED_SECRETS: tuple[Edit, ...] = (
    ("registry/transport.py", "return replace(self, url=target, secrets={})", "return replace(self, url=target)"),
)
# … or where a registry says that an upload or the next page is …
LOCATED_SECRETS: tuple[Edit, ...] = (("registry/session.py", "if self._is_own(call.url):", "if True:"),)
# … to whoever asks at the end of a redirect …
ASKED_ELSEWHERE: tuple[Edit, ...] = (
    ("registry/session.py", "return origin_of(answer.url) == self.endpoint.origin and self", "return self"),
)
# … to mirrors …
MIRRORED_SECRETS: tuple[Edit, ...] = (
    ("registry/auth.py", "Credentials() if endpoint.is_mirror else credentials", "credentials"),
)
# … to token servers without TLS, and wherever those redirect.
OPEN_REALMS: tuple[Edit, ...] = (
    ("registry/auth.py", 'if scheme == "http" and not is_open and not', "if False and not"),
)
REDIRECTED_TOKENS: tuple[Edit, ...] = (
    ("registry/auth.py", "urlencode(form).encode()), stays=True)", "urlencode(form).encode()))"),
)
# A manifest is believed to have the digest that a header gives it.
MANIFEST_DIGESTS: tuple[Edit, ...] = (("registry/documents.py", "    verify(body, _parsed(digest))\n", ""),)

# The launcher runs from its file (CVE-2019-5736).
UNSEALED: tuple[Edit, ...] = (
    (
        "launch/spawn.py",
        "    size = posix.fstat(program_fd).st_size\n    writable",
        "    return posix.open(launcher_path(), posix.O_RDONLY | posix.O_CLOEXEC)\n"
        "    size = posix.fstat(program_fd).st_size\n    writable",
    ),
)
# Whatever a container has for /etc/passwd is opened and read.
ANY_ACCOUNTS: tuple[Edit, ...] = (
    ("engine/users.py", "if not stat.S_ISREG(status.st_mode) or not status.st_size:", "if False:"),
)
# Policy files are read, whoever can write them.
ANY_POLICIES: tuple[Edit, ...] = (
    ("engine/policyfiles.py", "        _check_directories(path)\n", ""),
    ("engine/policyfiles.py", "            _check_file(path, os.fstat(fd))\n", ""),
)


def leaking(folder: Path) -> tuple[Edit, ...]:
    """A descriptor of a directory of the host is open while the program of the container is started.

    The working directory is not made either: who makes it meets the resolver, which refuses it first.
    """
    return (
        ("launch/furnish.py", "    fs.make_cwd(process)\n", ""),
        (
            "launch/compile.py",
            "    _join_cgroups(b, context, whole=whole)\n    b.add_inputs(context.inputs())",
            "    _join_cgroups(b, context, whole=whole)\n"
            f'    b.add(Open("leak", {str(folder)!r}, {os.O_PATH | os.O_DIRECTORY}))\n'
            "    b.add_inputs(context.inputs())",
        ),
    )


@dataclass(frozen=True, slots=True)
class Build:
    """An edited copy of Corten."""

    folder: Path

    @property
    def commands(self) -> Path:
        """Where its programs lie."""
        return self.folder / "bin"

    def modules(self, *names: str) -> list[Any]:
        """Modules of the copy, with copies of everything of Corten that they import, but one tree of errors."""
        kept = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "corten"}
        for name in kept.keys() - {"corten.errors"}:
            del sys.modules[name]
        sys.path.insert(0, str(self.folder / "src"))
        importlib.invalidate_caches()
        try:
            return [importlib.import_module(name) for name in names]
        finally:
            sys.path.remove(str(self.folder / "src"))
            for name in [name for name in sys.modules if name.split(".")[0] == "corten"]:
                del sys.modules[name]
            sys.modules.update(kept)


@contextmanager
def build(*edits: Edit, launcher: Sequence[Edit] = ()) -> Iterator[Build]:
    """A copy of Corten without what `edits` (files below src/corten) and `launcher` (below launcher/) take out."""
    folder = paths.scratch("weakened")
    try:
        shutil.copytree(
            paths.REPOSITORY / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
        weakened.edit(folder / "src/corten", edits)
        shutil.copytree(paths.REPOSITORY / "build/launcher", folder / "build/launcher")
        if launcher:
            weakened.make_launcher(folder, launcher, folder / "build/launcher/corten-launch")
        _write_commands(folder)
        yield Build(folder)
    finally:
        shutil.rmtree(folder)


def _write_commands(folder: Path) -> None:
    (folder / "bin").mkdir()
    for name in ("cortend", "corten-shim", "corten-runtime"):
        text = (paths.COMMANDS / name).read_text()
        own = str(paths.REPOSITORY / "src")
        assert text.count(own) == 1, f"{name} has another form"
        (folder / "bin" / name).write_text(text.replace(own, str(folder / "src")))
        (folder / "bin" / name).chmod(0o755)
