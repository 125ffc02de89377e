"""What statements of ``named.conf`` refer to by name: access lists, lists of primaries, TSIG keys and TLS settings.

`Names.used` has those that are in the result, so that the others can be named as not carried over.
"""

import ipaddress
import re

from resolver import limits
from resolver.cli.importers.bind_syntax import Statement
from resolver.cli.importers.draft import Draft, number
from resolver.cli.importers.networks import Network, wider
from resolver.settings.zones import TSIG_ALGORITHMS

__all__ = ["ALL_CLIENTS", "NETWORKS", "Names", "children", "duration", "flag", "plain_name", "size"]

_SIZE = re.compile(r"(\d+)([kmg]?)", re.IGNORECASE)
_UNITS = {"": 0, "k": 10, "m": 20, "g": 30}
_TTL = re.compile(r"(\d+)([smhdw]?)", re.IGNORECASE)
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
ALL_CLIENTS = ("0.0.0.0/0", "::/0")
NETWORKS = {
    "any": ALL_CLIENTS,
    "localhost": ("127.0.0.0/8", "::1/128"),
    "localnets": ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fe80::/10", "fc00::/7"),
}


def flag(value: str) -> bool:
    if value.lower() not in ("yes", "no", "true", "false", "1", "0"):
        raise ValueError(f"{value!r} is neither yes nor no")
    return value.lower() in ("yes", "true", "1")


def duration(value: str) -> int:
    found = _TTL.fullmatch(value)
    if found is None:
        raise ValueError(f"{value!r} is not a number with one unit; write the time by hand")
    return int(found[1]) * _SECONDS[found[2].lower()]


def size(value: str) -> int:
    found = _SIZE.fullmatch(value)
    if found is None:
        raise ValueError(f"{value!r} is not a number with a unit; write the size by hand")
    return max(limits.CACHE_SIZE.minimum, int(found[1]) << _UNITS[found[2].lower()])


def plain_name(name: str) -> str:
    """A name as it is compared."""
    return name.rstrip(".").lower()


def children(one: Statement | None) -> dict[str, Statement]:
    """The statements of a block, by their first word."""
    return {inner.words[0]: inner for inner in (() if one is None else one.block or ()) if inner.words}


class Names:
    """The statements that have a name, by their kind and name: zones, keys, and what zones refer to."""

    def __init__(self, draft: Draft, found: list[Statement]) -> None:
        self.draft = draft
        self.acls: dict[str, Statement] = {}
        self.named: dict[tuple[str, str], Statement] = {}
        self.used: set[tuple[str, str]] = set()
        self.add(found)

    def add(self, found: list[Statement]) -> None:
        """Statements outside of views, or those of a view."""
        for one in found:
            if one.words[:1] == ("acl",) and len(one.words) == 2:
                self.acls[one.words[1]] = one
            if len(one.words) > 1:
                kind = "primaries" if one.words[0] in ("masters", "remote-servers") else one.words[0]
                self.named[kind, plain_name(one.words[1])] = one

    def in_use(self, one: Statement) -> bool:
        """Whether the statement is part of the result by its name."""
        return any(self.named[used] is one for used in self.used)

    def addresses(self, block: tuple[Statement, ...], depth: int = 0) -> list[str]:
        """The elements of an address match list; names of access lists are replaced by their elements.

        Raises:
            ValueError: an element is no address, network or known list.
        """
        if depth > limits.IMPORT_DEPTH:
            raise ValueError("access lists contain each other")
        found: list[str] = []
        for inner in block:
            if inner.block is not None:
                if inner.words:
                    raise ValueError(f"the exception of {{ {' '.join(one.text for one in inner.block)} }} is not read")
                found += self.addresses(inner.block, depth + 1)
                continue
            text = "".join(inner.words[:2]) if inner.words[0] == "!" else inner.words[0]
            name = text.lstrip("!")
            if name in self.acls:
                listed = self.addresses(self.acls[name].block or (), depth + 1)
                if text.startswith("!"):
                    if any(one.startswith("!") for one in listed):
                        raise ValueError(f"the exception {text} has exceptions itself")
                    listed = [f"!{one}" for one in listed]
                found += listed
            elif name == "key":
                raise ValueError("a key is only carried over in a match-clients list without addresses; BIND means an"
                                 " address or a key, a [[view]] with both means an address and a key: write one"
                                 " [[view]] with clients and one with keys")
            elif name == "geoip":
                raise ValueError("resolverd cannot match clients by country")
            else:
                found.append(text)
        return found

    def keys(self, one: Statement | None, depth: int = 0) -> list[str]:
        """The keys in an address match list, and in lists that it names, when these have nothing else, so that a
        [[view]] means the same; else none."""
        found: list[str] = []
        for inner in () if one is None or depth > limits.IMPORT_DEPTH else one.block or ():
            if inner.block is None and len(inner.words) == 2 and inner.words[0] == "key":
                found.append(inner.words[1])
            elif inner.block is None and len(inner.words) == 1 and inner.words[0] in self.acls:
                listed = self.keys(self.acls[inner.words[0]], depth + 1)
                if not listed:
                    return []
                found += listed
            else:
                return []
        return found

    def elements(self, one: Statement) -> dict[Network, bool]:
        """The networks of an address match list, and whether each is allowed.

        In BIND the first element that matches decides, in resolverd the longest prefix. So an element inside an
        earlier one, which never decides, has the decision of the earlier one.

        Raises:
            ValueError: an element is no address, network or known list.
        """
        found: dict[Network, bool] = {}
        for text in self.addresses(one.block or ()):
            word = text.lstrip("!")
            for item in () if word == "none" else NETWORKS.get(word, (word,)):
                network = ipaddress.ip_network(item, strict=False)
                if not any(around in found for around in wider(network)):
                    found[network] = not text.startswith("!")
        return found

    def primaries(self, one: Statement, depth: int = 0) -> tuple[list[str], str]:
        """The primaries of a zone as resolverd writes them, and their key.

        Raises:
            ValueError: they cannot be written so; the text says why.
        """
        if depth > limits.IMPORT_DEPTH:
            raise ValueError("lists of primaries contain each other")
        common = one.words[one.words.index("port") + 1] if "port" in one.words else ""
        found: list[str] = []
        keys: set[str] = set()
        for inner in one.block or ():
            words = inner.words
            of = dict(zip(words[1::2], words[2::2], strict=False))
            listed = self.named.get(("primaries", plain_name(words[0])))
            if listed is not None:
                more, key = self.primaries(listed, depth + 1)
                found += more
                self.used.add(("primaries", plain_name(words[0])))
                keys.add(of.get("key", key))
                continue
            address, port = ipaddress.ip_address(words[0]), of.get("port", common)
            where = f"[{address}]" if address.version == 6 and (port or "tls" in of) else str(address)
            where += f":{number(port)}" if port else ""
            found.append(f"tls://{where}#{self.tls_name(of['tls'])}" if "tls" in of else where)
            keys.add(of.get("key", ""))
        if len(keys) > 1:
            raise ValueError("its primaries have different keys; resolverd has one for each zone")
        return found, next(iter(keys), "")

    def tls_name(self, name: str) -> str:
        """The name in the certificate of a server that is queried.

        Raises:
            ValueError: there is none.
        """
        inner = children(self.named.get(("tls", plain_name(name))))
        if "remote-hostname" not in inner:
            raise ValueError(f"tls {name} has no remote-hostname, so resolverd could not tell the primary from another")
        if "ca-file" in inner and ("tls", plain_name(name)) not in self.used:
            one = self.named["tls", plain_name(name)]
            self.draft.left_out(one.place, one.text, "name the authority in iteration.tls-cert-bundle")
        self.used.add(("tls", plain_name(name)))
        return inner["remote-hostname"].words[1]

    def certificate(self, name: str) -> tuple[str, str]:
        """The certificate and the key of a listener.

        Raises:
            ValueError: the settings have none.
        """
        inner = children(self.named.get(("tls", plain_name(name))))
        if not {"cert-file", "key-file"} <= inner.keys():
            raise ValueError(f"tls {name} has no cert-file and key-file; write a [[listener]] table, with the"
                             " certificate in [tls]")
        self.used.add(("tls", plain_name(name)))
        return inner["cert-file"].words[1], inner["key-file"].words[1]

    def tsig_key(self, name: str) -> str:
        """Write the key `name` as a table; return its name.

        Raises:
            ValueError: there is none, or its algorithm is not supported.
        """
        inner = children(self.named.get(("key", plain_name(name))))
        if "secret" not in inner:
            raise ValueError(f"there is no key {name}")
        algorithm = inner["algorithm"].words[1].lower().removesuffix(".") if "algorithm" in inner else ""
        if algorithm not in TSIG_ALGORITHMS:
            raise ValueError(f"the key {name} has the algorithm {algorithm or 'unknown'}, which resolverd does not use")
        if ("key", plain_name(name)) not in self.used:
            made = self.draft.table("tsig-key", algorithm=algorithm, secret=inner["secret"].words[1])
            made["name"] = name
            self.used.add(("key", plain_name(name)))
        return name
