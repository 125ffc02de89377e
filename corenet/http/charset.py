"""Text of a response by the charset that its server named.

Rule: a server chooses among the text encodings of the standard library and nothing else. Names go through a table, not
through `codecs.lookup`, which imports a module by that name and remembers every unknown one as long as the process.
"""

import re
from encodings import normalize_encoding
from encodings.aliases import aliases

__all__ = ["charset_of", "decode_text"]

# RFC 9110 section 8.3.2: a parameter of the media type, its value a token or quoted.
_CHARSET = re.compile(r""";[ \t]*charset=(?:"([^"\\]+)"|([^\s;"]+))""", re.IGNORECASE)

# Bytes to bytes or text to text, or what only Windows has. Left out as well, since no alias names them: idna and
# punycode (names, not text), undefined, and the escapes of Python's own source.
_NO_TEXT = {"base64_codec", "bz2_codec", "hex_codec", "quopri_codec", "rot_13", "uu_codec", "zlib_codec", "mbcs"}
_WITHOUT_ALIAS = {
    "cp1006", "cp720", "cp737", "cp856", "cp874", "cp875", "iso8859_1", "koi8_t", "koi8_u", "mac_arabic",
    "mac_croatian", "mac_farsi", "mac_romanian", "palmos", "utf_8_sig",
}  # fmt: skip
_TEXT = (frozenset(aliases.values()) - _NO_TEXT) | _WITHOUT_ALIAS


def charset_of(content_type: str) -> str:
    """The charset a Content-Type names, in lower case, else utf-8."""
    found = _CHARSET.search(content_type)
    return (found[1] or found[2]).lower() if found else "utf-8"


def decode_text(body: bytes, charset: str) -> str:
    """`body` as text, U+FFFD for what is not of the charset; utf-8 when there is no such charset."""
    name = normalize_encoding(charset).lower() if charset.isascii() else ""
    name = aliases.get(name, name)
    return body.decode(name if name in _TEXT else "utf-8", "replace")
