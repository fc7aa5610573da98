"""Certificate authorities of a test's own, made by openssl(1), which Debian's ca-certificates brings."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# The distribution's configuration would add extensions a second time.
CONFIGURATION = "[req]\ndistinguished_name = name\n[name]\n"
EC_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "3650")


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, in PEM files."""

    cert: Path
    key: Path


class Authority:
    """A root certificate in `folder`, which signs others."""

    def __init__(self, folder: Path, name: str = "Corten test authority") -> None:
        self.folder = folder
        (folder / "openssl.cnf").write_text(CONFIGURATION)
        self._own = self._request("ca", name, ["basicConstraints=critical,CA:TRUE", "keyUsage=keyCertSign"], [])

    @property
    def ca(self) -> Path:
        """The root certificate, which a client trusts."""
        return self._own.cert

    def issue(self, name: str, *, hosts: Sequence[str] = ("127.0.0.1", "localhost")) -> Pair:
        """A certificate of a server or client; `hosts` are its names and addresses."""
        names = ",".join(f"{'IP' if one.replace('.', '').isdigit() or ':' in one else 'DNS'}:{one}" for one in hosts)
        usage = "extendedKeyUsage=serverAuth,clientAuth"
        signer = ["-CA", str(self._own.cert), "-CAkey", str(self._own.key)]
        return self._request(name, name, [f"subjectAltName={names}", usage], signer)

    def _request(self, file: str, name: str, extensions: Sequence[str], more: Sequence[str]) -> Pair:
        pair = Pair(self.folder / f"{file}.crt", self.folder / f"{file}.key")
        argv = ["openssl", "req", "-x509", "-config", str(self.folder / "openssl.cnf"), *EC_KEY, "-subj", f"/CN={name}"]
        argv += ["-keyout", str(pair.key), "-out", str(pair.cert), *more]
        for extension in extensions:
            argv += ["-addext", extension]
        subprocess.run(argv, check=True, capture_output=True, timeout=30)
        return pair


def sign_es256(key: Path, data: bytes) -> bytes:
    """The signature of RFC 7518 §3.4: r and s, 32 bytes each."""
    argv = ["openssl", "dgst", "-sha256", "-sign", str(key)]
    der = subprocess.run(argv, input=data, check=True, capture_output=True, timeout=30).stdout
    r_size = der[3]
    r, s = der[4 : 4 + r_size], der[4 + r_size + 2 :]
    return b"".join(int.from_bytes(part).to_bytes(32) for part in (r, s))
