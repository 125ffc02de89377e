"""Names, as bytes and as text: either `WireError`, or a name that survives all conversions."""

from resolver.wire import WireError, name


def run(data: bytes) -> None:
    """Bytes as a name, and as the text of one."""
    half = len(data) // 2
    try:
        made = name.from_text(data.decode("latin-1"))
    except WireError:
        made = None
    for given in (data, data[:half], made):
        if given is None or not name.is_valid(given):
            continue
        assert name.from_text(name.to_text(given)) == given
        assert b"".join(bytes([len(part)]) + part for part in name.labels(given)) + b"\0" == given
        low = name.lower(given)
        assert name.equal(low, given)
        assert name.compare(low, given) == 0
        assert name.canonical_key(low) == name.canonical_key(given)
        assert name.is_subdomain(given, name.parent(given))
        assert name.replace_suffix(given, name.parent(given), name.parent(given)) == given
        assert name.equal(given.swapcase(), given)
    if made is not None and name.is_valid(data):
        order = name.compare(made, data)
        one, two = name.canonical_key(made), name.canonical_key(data)
        assert order == (one > two) - (one < two)
        assert (name.common_labels(made, data) == name.label_count(data)) == name.is_subdomain(made, data)
