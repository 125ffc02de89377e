"""Client subnet options: what is read is written in the same octets, and a reply is for those who were asked for."""

from resolver.cache.scoped import covers
from resolver.iterate.client_subnet import ClientSubnets
from resolver.net.client_subnet import ClientSide
from resolver.settings import SubnetSettings
from resolver.wire import WireError
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.client_subnet import encode_subnet, parse_subnet
from resolver.wire.edns import opt_record, options_to_wire
from resolver.wire.message import MessageView

SETTINGS = SubnetSettings(zones=("example.com",), trusted_clients=("192.0.2.1",))
SIDE = ClientSide(SETTINGS)
RULES = ClientSubnets(SETTINGS)
SENT = (bytes([198, 51, 100, 0]), 24)
NAME = names.from_text("www.example.com.")


def run(data: bytes) -> None:
    """One input: the content of an option in a query and in a reply."""
    try:
        found = parse_subnet(data)
    except WireError:
        found = None
    if found is not None and found.subnet is not None:
        assert encode_subnet(found.subnet, found.scope) == data
    options = options_to_wire([(c.OPTION_ECS, data)])
    try:
        subnet = SIDE.subnet_of("192.0.2.1", options)
    except WireError:
        subnet = None
    assert subnet is None or subnet[1] <= {4: 24, 16: 56}[len(subnet[0])]
    if found is None:
        assert SIDE.subnet_of("198.51.100.9", options) == SENT
    edns = MessageView.parse(bytes(11) + b"\1" + opt_record(1232, options=options)).edns
    if not RULES.problem(SENT, c.NOERROR, edns):
        assert covers(RULES.scope_of(SENT, edns, NAME, c.A, 1), SENT)
