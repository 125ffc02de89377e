"""Whole messages: `WireError`, or a view whose sets can all be read, and written and parsed again unchanged."""

from resolver.wire import Builder, MessageView, WireError, name


def run(data: bytes) -> None:
    """One packet."""
    try:
        view = MessageView.parse(data)
    except WireError:
        return
    sections = (view.answer, view.authority, view.additional)
    for section in sections:
        for rrset in section:
            assert len(rrset) == len(rrset.rdatas()) > 0
            assert rrset.sig_len == len(rrset.sigs())
            assert 0 <= rrset.ttl <= 0x7FFFFFFF
            assert name.is_valid(rrset.name)
            rrset.canonical_rdatas()
            assert all(name.is_valid(target) for target in rrset.targets())
    if view.edns is not None:
        assert all(0 <= code <= 65535 for code, _ in view.edns.options)
    builder = Builder()
    builder.start(view.id, view.flags, view.qname, view.qtype, view.qclass)
    if builder.fill(*sections, sigs=True):
        again = MessageView.parse(builder.finish())
        for before, after in zip(sections, (again.answer, again.authority, again.additional), strict=True):
            assert before == after
