"""An address that this host gets while the daemon runs is served at once when `freebind` is set."""

from pathlib import Path

import pytest
from support.ports import free_port
from support.servers import ask, interface_addresses
from support.zone_daemon import resolverd

from resolver.wire import consts as c

pytestmark = pytest.mark.integration

LATE = "198.51.100.201"


@pytest.mark.parametrize("lanes", [0, 2])
def test_an_address_that_comes_later_is_served(lanes: int, tmp_path: Path) -> None:
    port = free_port()
    listener = f'[[listener]]\naddress = "{LATE}:{port}"\nfreebind = true\nallow = ["{LATE}/32"]\n'
    with resolverd(tmp_path, listener, port=port, workers=2, server=f"lanes = {lanes}\n"):
        with interface_addresses([LATE]):
            for tcp in (False, True):
                reply = ask(LATE, port, "localhost.", c.A, tcp=tcp)
                assert reply is not None and reply.rcode == c.NOERROR, tcp
        for tcp in (False, True):
            assert ask("127.0.0.1", port, "localhost.", c.A, tcp=tcp) is not None, "after the address has gone"
