"""Authorities, and certificates that they signed, as an operator of the tiers would make them: with openssl."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates; everything lies in `directory`, which is made."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        directory.mkdir(parents=True)
        self._own = Pair(directory / "ca.crt", directory / "ca.key")
        # What it may do is said because Python 3.13 verifies no certificate of an authority that does not say it.
        self._make(self._own, name, "-addext", "keyUsage=critical,keyCertSign,cRLSign")

    @property
    def certificate(self) -> Path:
        """What a peer is given to know it by."""
        return self._own.certificate

    def sign(self, name: str, *, dns: str = "", ip: str = "", use: str) -> Pair:
        """A certificate for a server at `dns` or `ip` (use: serverAuth), or for a sender (use: clientAuth)."""
        pair = Pair(self._directory / f"{name}.crt", self._directory / f"{name}.key")
        extensions = [f"extendedKeyUsage={use}", "basicConstraints=CA:FALSE"]
        places = [f"{kind}:{place}" for kind, place in (("DNS", dns), ("IP", ip)) if place]
        extensions += [f"subjectAltName={','.join(places)}"] if places else []
        signing = ["-CA", self._own.certificate, "-CAkey", self._own.key]
        self._make(pair, name, *signing, *(word for each in extensions for word in ("-addext", each)))
        return pair

    @staticmethod
    def _make(pair: Pair, name: str, *more: str | Path) -> None:
        kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-days", "2"]
        files = ["-keyout", pair.key, "-out", pair.certificate]
        command = ["openssl", "req", *kind, "-subj", f"/CN={name}", *files, *more]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
