"""Decodes the body of a response to text by the charset of its Content-Type.

A server can select only text encodings of the standard library. Names are looked up in a table, not by `codecs.lookup`,
which imports a module of that name and caches every unknown name for the life of the process.
"""

import re
from encodings import normalize_encoding
from encodings.aliases import aliases

__all__ = ["charset_of", "decode_text"]

# RFC 9110 section 8.3.2: a parameter of the media type, its value a token or quoted.
_CHARSET = re.compile(r""";[ \t]*charset=(?:"([^"\\]+)"|([^\s;"]+))""", re.IGNORECASE)

# Codecs that are bytes to bytes or text to text, or exist on Windows only. Also excluded, because no alias names them:
# idna and punycode (for names, not text), undefined, and the escapes of Python source code.
_NO_TEXT = {"base64_codec", "bz2_codec", "hex_codec", "quopri_codec", "rot_13", "uu_codec", "zlib_codec", "mbcs"}
_WITHOUT_ALIAS = {
    "cp1006", "cp720", "cp737", "cp856", "cp874", "cp875", "iso8859_1", "koi8_t", "koi8_u", "mac_arabic",
    "mac_croatian", "mac_farsi", "mac_romanian", "palmos", "utf_8_sig",
}  # fmt: skip
_TEXT = (frozenset(aliases.values()) - _NO_TEXT) | _WITHOUT_ALIAS


def charset_of(content_type: str) -> str:
    """Return the charset of a Content-Type in lower case, utf-8 when it has none."""
    found = _CHARSET.search(content_type)
    return (found[1] or found[2]).lower() if found else "utf-8"


def decode_text(body: bytes, charset: str) -> str:
    """Decode `body`, with U+FFFD for bytes that are invalid in the charset; as utf-8 when the charset is unknown."""
    name = normalize_encoding(charset).lower() if charset.isascii() else ""
    name = aliases.get(name, name)
    return body.decode(name if name in _TEXT else "utf-8", "replace")
