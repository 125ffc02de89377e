"""resolv.conf, hosts and root hints of any content: the host's files never raise, the operator's raise ValueError."""

from contextlib import suppress

from resolver import hints, limits
from resolver.system import parse_hosts, parse_resolv_conf


def run(data: bytes) -> None:
    """Give `data` to every reader of a small text file."""
    conf = parse_resolv_conf(data)
    assert len(conf.search) <= limits.RESOLV_SEARCH
    assert limits.RESOLV_NDOTS.minimum <= conf.ndots <= limits.RESOLV_NDOTS.maximum
    hosts = parse_hosts(data)
    assert set().union(*hosts.by_name.values()) == set(hosts.by_address)
    text = data.decode("utf-8", "replace")
    with suppress(ValueError):
        hints.parse_hints(text)
    with suppress(ValueError):
        hints.parse_anchors(text)
