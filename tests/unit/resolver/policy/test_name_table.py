"""Tables of names: exact and suffix matches against a model, bounds, and invalid input."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from resolver import limits
from resolver.policy.name_table import NameTable, NameTableBuilder
from resolver.wire import WireError
from resolver.wire import name as names

KEY = bytes(range(16))
NAMES = 40_000


def wire(text):
    return names.from_text(text)


def built(*entries, key=KEY):
    builder = NameTableBuilder(key)
    for text, exact, below in entries:
        builder.add(wire(text), exact, below)
    return builder.finish()


def expected(model, name, as_zone):
    """The result of `NameTable.match`, found with a dictionary."""
    node, exact = names.lower(name), True
    while True:
        value = model.get(node, (0, 0))[0 if exact else 1]
        if value:
            return value, name[len(name) - len(node):], exact
        if node == names.ROOT or (as_zone and not exact and node in model):
            return None
        node, exact = names.parent(node), False


@pytest.mark.parametrize("as_zone", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_look_ups_agree_with_a_dictionary(seed, as_zone):
    rng = random.Random(seed)
    labels = ["a", "b", "cc", "www", "x" * 63, r"\000", r"\.", "*"]

    def draw():
        parts = [rng.choice(labels) for _ in range(rng.randint(0, 5))]
        text = ".".join(parts) + "."
        return wire(text) if len(parts) * 64 < 250 else wire("a.")

    builder, model = NameTableBuilder(rng.randbytes(16), as_zone=as_zone), {}
    for _ in range(rng.choice([0, 1, 8, 9, 10, 500])):
        name = draw()
        exact, below = rng.choice([(1, 0), (0, 2), (3, 4), (65535, 65535)])
        held = model.get(name, (0, 0))
        new = (held[0] or exact, held[1] or below)
        assert builder.add(name, exact, below) == (new != held)
        model[name] = new
    table = builder.finish()
    assert len(table) == len(model) and len(builder) == 0
    for _ in range(2000):
        name = draw()
        spelled = bytes(b - 32 if 97 <= b <= 122 and rng.random() < 0.5 else b for b in name)
        found = expected(model, spelled, as_zone)
        assert table.match(spelled) == found
        assert table.find(spelled) == (found[0] if found else 0)


def test_an_exact_name_precedes_its_ancestors_and_the_closest_ancestor_the_others():
    table = built(("example.", 0, 1), ("b.example.", 0, 2), ("a.b.example.", 3, 0), (".", 0, 9))
    assert table.match(wire("a.b.example.")) == (3, wire("a.b.example."), True)
    assert table.match(wire("x.a.b.example.")) == (2, wire("b.example."), False)
    assert table.match(wire("b.example.")) == (1, wire("example."), False), "`below` does not hold for the name itself"
    assert table.match(wire("example.")) == (9, names.ROOT, False)
    assert table.match(names.ROOT) is None


def test_a_suffix_matches_whole_labels_only():
    table = built(("ample.", 1, 1))
    assert table.find(wire("example.")) == 0
    assert table.find(b"\x0a\x61bcd\x05ample\x00") == 0, "the bytes of a listed name inside of a label"


def test_the_longest_and_deepest_names():
    deep = b"\x01a" * 127 + b"\0"
    long = (b"\x3f" + b"y" * 63) * 3 + b"\x3d" + b"z" * 61 + b"\0"
    assert len(deep) == len(long) == 255
    builder = NameTableBuilder(KEY)
    builder.add(deep, 1, 1)
    builder.add(long, 2, 2)
    builder.add(deep[2:], 0, 3)
    table = builder.finish()
    assert (table.find(deep), table.find(long), table.find(b"\x01b" + deep[2:])) == (1, 2, 3)


def test_an_empty_table_matches_nothing():
    for table in (NameTable(), NameTableBuilder(KEY).finish()):
        assert (len(table), table.find(wire("a.")), table.match(names.ROOT)) == (0, 0, None)


def test_a_builder_can_be_used_again():
    builder = NameTableBuilder(KEY)
    builder.add(wire("a."), 1, 1)
    first = builder.finish()
    builder.add(wire("b."), 2, 2)
    second = builder.finish()
    assert [first.find(wire(t)) for t in ("a.", "b.")] == [1, 0]
    assert [second.find(wire(t)) for t in ("a.", "b.")] == [0, 2]


def test_two_threads_cannot_damage_a_table():
    """The table is enlarged without the GIL. A call of another thread fails then, and nothing is lost."""
    builder = NameTableBuilder(KEY)

    def fill(letter):
        for number in range(NAMES):
            while True:
                try:
                    builder.add_text(f"{letter}{number}.example", 1, 0)
                except RuntimeError:
                    continue
                break

    letters = "abcd"
    with ThreadPoolExecutor(len(letters)) as pool:
        for done in [pool.submit(fill, letter) for letter in letters]:
            done.result()
    table = builder.finish()
    assert len(table) == len(letters) * NAMES
    assert all(table.find(wire(f"{letter}{number}.example.")) for letter in letters for number in range(0, NAMES, 500))


@pytest.mark.parametrize(("text", "name"), [
    ("Example.COM", "example.com."), ("example.com.", "example.com."), ("_x-1.a", "_x-1.a."), (".", "."),
    (r"a\.b.c", r"a\.b.c."), (r"\097.b", "a.b."), ("x" * 63, "x" * 63 + "."),
])
def test_text_forms_of_names_are_accepted(text, name):
    builder = NameTableBuilder(KEY)
    assert builder.add_text(text, 1, 0)
    assert not builder.add_text(name, 1, 0)
    assert builder.finish().find(wire(name)) == 1


@pytest.mark.parametrize("text", ["a..b", "x" * 64, ".a", "a.." , ("a" * 61 + ".") * 5, "ä.example"])
def test_malformed_names_are_refused(text):
    builder = NameTableBuilder(KEY)
    with pytest.raises(ValueError):
        builder.add_text(text, 1, 1)
    assert len(builder) == 0


def test_invalid_arguments_are_refused():
    builder = NameTableBuilder(KEY)
    for exact, below in ((0, 0), (-1, 1), (1, 65536)):
        with pytest.raises(ValueError, match="values of a name"):
            builder.add(wire("a."), exact, below)
        with pytest.raises(ValueError, match="values of a name"):
            builder.add_text("a.", exact, below)
    with pytest.raises(WireError):
        builder.add(b"\x05ab\0", 1, 1)
    with pytest.raises(WireError):
        built(("a.", 1, 1)).find(b"\x01a")
    with pytest.raises(ValueError, match="16 bytes"):
        NameTableBuilder(b"short")
    with pytest.raises(ValueError, match="most_names"):
        NameTableBuilder(KEY, most_names=limits.LIST_NAMES.maximum + 1)


def test_the_number_of_names_is_bounded():
    builder = NameTableBuilder(KEY, most_names=2)
    builder.add_text("a", 1, 1)
    builder.add_text("b", 1, 1)
    builder.add_text("a", 1, 1)
    with pytest.raises(ValueError, match="more than 2 names"):
        builder.add_text("c", 1, 1)
    assert len(builder) == 2


def fill(builder, count):
    for number in range(count):
        builder.add_text(f"name-{number}.example.org", 1, 1)


def test_the_memory_is_bounded_and_small():
    builder = NameTableBuilder(KEY, most_bytes=limits.LIST_TABLE_BYTES.minimum)
    for number in range(10):
        builder.add_text(f"name-{number}.example", 1, 1)
    with pytest.raises(ValueError, match="bytes of memory"):
        fill(builder, 1000)
    builder = NameTableBuilder(KEY)
    fill(builder, 20_000)
    table = builder.finish()
    assert table.octets <= 45 * len(table)
    assert all(table.find(wire(f"www.name-{n}.example.org.")) == 1 for n in range(0, 20_000, 97))
