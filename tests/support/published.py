"""Test vectors that other resolvers publish: keys, signed sets, DS records and hashes, read from `published/*.txt`.

One statement per line, records indented below it as owner, type and rdata:

    file NAME TIME                        source, and the time of validation in Unix seconds
    keys                                  the DNSKEY set that is trusted
    secure | bogus                        a set with its signatures, and the verdict of its authors
    match | mismatch                      a DS record and a DNSKEY record
    hash ALGORITHM ITERATIONS SALT NAME HASH    an NSEC3 hash (RFC 5155 section 5)
    raw ALGORITHM KEY DATA SIGNATURE      a signature over bytes: base64, hexadecimal, base64
"""

import base64
from pathlib import Path
from typing import NamedTuple

from support.rfc_vectors import sets

from resolver.validate.verify import SignatureJob
from resolver.wire import name as names
from resolver.wire.rrset import RRset

__all__ = ["DigestCase", "HashCase", "SignedCase", "VectorFile", "read"]

FOLDER = Path(__file__).resolve().parent / "published"
VERDICTS = ("secure", "bogus")
MATCHES = ("match", "mismatch")


class SignedCase(NamedTuple):
    """A set with its signatures, and whether it is to be believed."""

    rrset: RRset
    secure: bool


class DigestCase(NamedTuple):
    """A DS set and a DNSKEY set, and whether they belong together."""

    ds: RRset
    dnskey: RRset
    match: bool


class HashCase(NamedTuple):
    """The NSEC3 hash of a name, in lower-case base32hex."""

    algorithm: int
    iterations: int
    salt: bytes
    name: str
    digest: str


class VectorFile:
    """What came from one file of the other project."""

    def __init__(self, name: str, now: int) -> None:
        self.name = name
        self.now = now
        self.keys: RRset | None = None
        self.signed: list[SignedCase] = []
        self.digests: list[DigestCase] = []
        self.hashes: list[HashCase] = []
        self.raw: list[SignatureJob] = []

    def add(self, statement: str, words: list[str], lines: list[str]) -> None:
        """One statement with the records below it.

        Raises:
            ValueError: there is no such statement.
        """
        if statement == "keys":
            (self.keys,) = sets("\n".join(lines))
        elif statement in VERDICTS:
            (rrset,) = sets("\n".join(lines))
            self.signed.append(SignedCase(rrset, statement == "secure"))
        elif statement in MATCHES:
            ds, dnskey = sets("\n".join(lines))
            self.digests.append(DigestCase(ds, dnskey, statement == "match"))
        elif statement == "hash":
            salt = b"" if words[2] == "-" else bytes.fromhex(words[2])
            self.hashes.append(HashCase(int(words[0]), int(words[1]), salt, words[3], words[4]))
        elif statement == "raw":
            key, signature = base64.b64decode(words[1]), base64.b64decode(words[3])
            self.raw.append(SignatureJob(int(words[0]), key, signature, bytes.fromhex(words[2])))
        else:
            raise ValueError(f"{self.name}: no statement {statement!r}")

    def zone(self) -> bytes:
        """The owner of the keys, in lower case."""
        assert self.keys is not None
        return names.lower(self.keys.name)

    def algorithms(self) -> set[int]:
        """The algorithms of the keys."""
        assert self.keys is not None
        return {rdata[3] for rdata in self.keys.rdatas()}


def read(project: str) -> list[VectorFile]:
    """The vectors of `project`: "unbound" or "bind"."""
    files: list[VectorFile] = []
    statement: list[str] = []
    lines: list[str] = []

    def finish() -> None:
        if statement:
            files[-1].add(statement[0], statement[1:], lines)
        statement.clear()
        lines.clear()

    for line in (FOLDER / f"{project}.txt").read_text(encoding="ascii").splitlines():
        if line.startswith("#"):
            continue
        if line.startswith(" "):
            lines.append(line)
            continue
        finish()
        word, *words = line.split()
        if word == "file":
            files.append(VectorFile(words[0], int(words[1])))
        else:
            statement += [word, *words]
    finish()
    return files
