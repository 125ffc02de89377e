"""Who asked, and what a policy did about it: the values that a client query carries through all layers.

`Query` is made once, where a query comes in, and is passed on unchanged: to the policies, to the mesh, and back to the
listener with the answer. Its address has one form, `client_address`, so that no policy sees an IPv4 client as one of
IPv6. Two of its fields say what an answer depends on besides the question: `view` and `subnet`.
Queries in progress are joined, and answers are cached, by these two and by no other field.

`Applied` names the policy that made or changed an outcome. Sans-IO: nothing here reads a clock.
"""

from collections.abc import Hashable
from enum import Enum
from ipaddress import ip_address
from typing import Any

__all__ = ["API", "PROGRAM", "UDP", "ActionKind", "Applied", "Query", "client_address"]

UDP = "udp"
API = "api"
"""The transport of questions that no listener received: those of the library and of the daemon itself."""


_MAPPED = "::ffff:"


def client_address(text: str) -> str:
    """The address of a client in the form that policies, limits and logs compare: IPv4 for an IPv4-mapped one (RFC 4291
    section 2.5.5.2), which a socket for both families or a load balancer reports."""
    if text.startswith(_MAPPED):
        mapped = getattr(ip_address(text.partition("%")[0]), "ipv4_mapped", None)
        if mapped is not None:
            return str(mapped)
    return text


class Query:
    """The client of one query.

    `address` is text, empty for the program itself. `network` is the client network that is charged for jobs; None
    charges the program. `transport` is udp, tcp, tls, https, quic or api; `listener` is the address and port that
    received the query, empty when that is not known. `verified`: a cookie or a stream proves the address. `tsig_key` is
    the name of the key that signed the query, in wire form and lower case; None without. `view` is the number of the
    view, 0 for clients in none. `subnet` is what servers may be told of the client's address (RFC 7871), as address and
    prefix length; None: nothing. `alias` is the `Outcome` that a policy has given it, while its target is resolved.
    `arrived` and `deadline` are in seconds of the monotonic clock; a deadline of 0.0 is that of the settings.
    """

    __slots__ = (
        "address", "alias", "arrived", "deadline", "listener", "network", "subnet", "transport", "tsig_key", "verified",
        "view",
    )

    def __init__(
        self,
        address: str = "",
        *,
        network: Hashable = None,
        transport: str = API,
        listener: str = "",
        verified: bool = False,
        tsig_key: bytes | None = None,
        view: int = 0,
        subnet: tuple[bytes, int] | None = None,
        arrived: float = 0.0,
        deadline: float = 0.0,
    ) -> None:
        self.address = client_address(address)
        self.network = network
        self.transport = transport
        self.listener = listener
        self.verified = verified
        self.tsig_key = tsig_key
        self.view = view
        self.subnet = subnet
        self.arrived = arrived
        self.deadline = deadline
        self.alias: Any = None

    @property
    def packed(self) -> bytes:
        """The address in network order; empty for the program itself."""
        return ip_address(self.address).packed if self.address else b""

    @property
    def stream(self) -> bool:
        """Whether the reply may have any size, because it is no UDP datagram."""
        return self.transport != UDP

    def __repr__(self) -> str:
        where = f" at {self.listener}" if self.listener else ""
        return f"Query({self.address or 'program'} over {self.transport}{where}, view {self.view})"


PROGRAM = Query()
"""The program itself: prefetches, trust anchors, questions of the library."""


class ActionKind(Enum):
    """What a policy does with a query."""

    ANSWER = "answer"
    """It is answered with an outcome of the policy."""
    REFUSE = "refuse"
    """It is answered REFUSED."""
    DROP = "drop"
    """It gets no reply."""
    TRUNCATE = "truncate"
    """Over UDP the reply is empty and truncated, so that the client comes back over TCP. A stream is not affected."""
    PASS = "pass"
    """It is resolved as usual, and the later modules of the same point are not asked (RPZ: passthru)."""
    LOG = "log"
    """It is resolved as usual and a line is logged."""


class Applied:
    """Which policy made or changed an outcome: the point, the name of the module, what it did, and a reason for people.

    `follow`: the answer ends with an alias whose target is still to be resolved. `detail` is what the module itself
    wants to know of it at later points.
    """

    __slots__ = ("detail", "follow", "kind", "module", "point", "reason")

    def __init__(
        self, point: str, module: str, kind: ActionKind, reason: str = "", *, follow: bool = False,
        detail: object = None,
    ) -> None:
        self.point = point
        self.module = module
        self.kind = kind
        self.reason = reason
        self.follow = follow
        self.detail = detail

    def describe(self) -> str:
        """A sentence for the trace."""
        return f"policy {self.module} at point {self.point}: {self.kind.value}{self.reason and ': '}{self.reason}"

    def __repr__(self) -> str:
        return f"Applied({self.describe()})"
