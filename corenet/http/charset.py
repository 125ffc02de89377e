"""Decodes the body of a response to text by the rules of browsers (WHATWG Encoding standard).

A byte order mark decides, else the charset of the Content-Type, else UTF-8. A charset is a label of the standard, or
another text encoding of Python's standard library; any other name means UTF-8. Invalid bytes become U+FFFD. Nothing
raises.

A server can select only text encodings. Names are looked up in tables, not by `codecs.lookup`, which imports a module
of that name and caches every unknown name for the life of the process.
"""

import codecs
import re
from encodings import normalize_encoding
from encodings.aliases import aliases

from corenet.http.charset_labels import CODECS, REPLACEMENT, USER_DEFINED

__all__ = ["TextDecoder", "charset_of", "decode_text"]

# RFC 9110 section 8.3.2: a parameter of the media type, its value a token or quoted.
_CHARSET = re.compile(r""";[ \t]*charset=(?:"([^"\\]+)"|([^\s;"]+))""", re.IGNORECASE)

# Codecs that are bytes to bytes or text to text, or exist on Windows only; UTF-7, which hides markup. Also excluded,
# because no alias names them: idna and punycode (for names, not text), undefined, and the escapes of Python source
# code.
_NO_TEXT = {
    "base64_codec", "bz2_codec", "hex_codec", "quopri_codec", "rot_13", "uu_codec", "zlib_codec", "mbcs", "utf_7"
}  # fmt: skip
_WITHOUT_ALIAS = {
    "cp1006", "cp720", "cp737", "cp856", "cp874", "cp875", "iso8859_1", "koi8_t", "koi8_u", "mac_arabic",
    "mac_croatian", "mac_farsi", "mac_romanian", "palmos", "utf_8_sig",
}  # fmt: skip
_TEXT = (frozenset(aliases.values()) - _NO_TEXT) | _WITHOUT_ALIAS

_MARKS = ((codecs.BOM_UTF8, "utf_8"), (codecs.BOM_UTF16_LE, "utf_16_le"), (codecs.BOM_UTF16_BE, "utf_16_be"))
_C1 = "corenet-c1"
# Windows code pages: the standard maps their unassigned positions from 0x80 to 0x9F to control characters.
_WINDOWS = frozenset({"cp874", *(f"cp{number}" for number in range(1250, 1259))})
_USER_TABLE = "".join(map(chr, range(128))) + "".join(chr(0xF780 + offset) for offset in range(128))


def _control(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    byte = error.object[error.start]
    return (chr(byte) if byte < 0xA0 else "\ufffd", error.start + 1)


codecs.register_error(_C1, _control)


def charset_of(content_type: str) -> str:
    """Return the charset of a Content-Type in lower case, utf-8 when it has none."""
    found = _CHARSET.search(content_type)
    return (found[1] or found[2]).lower() if found else "utf-8"


def _codec(charset: str) -> str:
    """Return the codec for a charset: of the standard library, `REPLACEMENT` or `USER_DEFINED`."""
    label = charset.strip("\t\n\f\r ").lower()
    if label in CODECS:
        return CODECS[label]
    name = normalize_encoding(label) if label.isascii() else ""
    name = aliases.get(name, name)
    # These two raise without a byte order mark. Browsers take UTF-16 without one for little-endian.
    if name in ("utf_16", "utf_32"):
        return name + "_le"
    return name if name in _TEXT else "utf_8"


def decode_text(body: bytes, charset: str) -> str:
    """Decode `body` by its byte order mark, else by `charset`; U+FFFD for invalid bytes. Never raises."""
    decoder = TextDecoder(charset)
    return decoder.feed(body, last=True)


class TextDecoder:
    """Decodes a body that arrives in pieces; the same rules as `decode_text`."""

    __slots__ = ("_charset", "_decoder", "_held")

    def __init__(self, charset: str) -> None:
        self._charset = charset
        self._decoder: codecs.IncrementalDecoder | None = None
        # The first bytes, until it is known whether they are a byte order mark.
        self._held = b""

    def feed(self, data: bytes, *, last: bool = False) -> str:
        """Return the text that `data` completes; with `last` also what an incomplete character becomes."""
        if self._decoder is None:
            data = self._held + data
            self._held = b""
            if not last and len(data) < 3 and any(mark.startswith(data) for mark, _ in _MARKS):
                self._held = data
                return ""
            for mark, codec in _MARKS:
                if data.startswith(mark):
                    self._decoder = _incremental(codec)
                    data = data[len(mark) :]
                    break
            else:
                self._decoder = _incremental(_codec(self._charset))
        return self._decoder.decode(data, last)


def _incremental(codec: str) -> codecs.IncrementalDecoder:
    if codec == USER_DEFINED:
        return _UserDefined()
    if codec == REPLACEMENT:
        return _Replacement()
    errors = _C1 if codec in _WINDOWS else "replace"
    return codecs.getincrementaldecoder(codec)(errors)


class _UserDefined(codecs.IncrementalDecoder):
    def decode(self, data: bytes, final: bool = False) -> str:  # type: ignore[override]
        return codecs.charmap_decode(data, "replace", _USER_TABLE)[0]


class _Replacement(codecs.IncrementalDecoder):
    """One U+FFFD for the whole body, unless it is empty (WHATWG Encoding standard section 14.1)."""

    began = False

    def decode(self, data: bytes, final: bool = False) -> str:  # type: ignore[override]
        first = bool(data) and not self.began
        self.began = self.began or first
        return "\ufffd" if first else ""
