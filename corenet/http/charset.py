"""Decodes the body of a response to text by the rules of browsers (WHATWG Encoding standard).

A byte order mark decides, else the charset of the Content-Type, else UTF-8. A charset is a label of the standard, or
another text encoding of Python's standard library; any other name means UTF-8. Invalid bytes become U+FFFD. No input
raises an exception.

A server can select only text encodings. Names are looked up in tables, not by `codecs.lookup`, which imports a module
of that name and caches every unknown name for the life of the process.
"""

import codecs
import re
from encodings import normalize_encoding
from encodings.aliases import aliases

from corenet.http.charset_labels import CODECS, REPLACEMENT, USER_DEFINED

__all__ = ["BYTE_ORDER_MARKS", "TextDecoder", "charset_of", "decode_text"]

# RFC 9110 section 8.3.2: a parameter of the media type, its value a token or quoted.
_CHARSET = re.compile(r""";[ \t]*charset=(?:"([^"\\]+)"|([^\s;"]+))""", re.IGNORECASE)

# Of the codecs that have an alias, those that are bytes to bytes or text to text, or exist on Windows only; and UTF-7,
# which hides markup. idna and punycode (for names, not text), undefined, and the escapes of Python source code have no
# alias.
_EXCLUDED = {
    "base64_codec", "bz2_codec", "hex_codec", "quopri_codec", "rot_13", "uu_codec", "zlib_codec", "mbcs", "utf_7"
}  # fmt: skip
# Text codecs without an alias.
_ALSO_TEXT = {
    "cp1006", "cp720", "cp737", "cp856", "cp874", "cp875", "iso8859_1", "koi8_t", "koi8_u", "mac_arabic",
    "mac_croatian", "mac_farsi", "mac_romanian", "palmos", "utf_8_sig",
}  # fmt: skip
_TEXT_CODECS = (frozenset(aliases.values()) - _EXCLUDED) | _ALSO_TEXT

BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf_8"), (codecs.BOM_UTF16_LE, "utf_16_le"), (codecs.BOM_UTF16_BE, "utf_16_be"))
_C1_HANDLER = "corenet-c1"
# Codecs of Windows code pages: the standard maps their unassigned positions from 0x80 to 0x9F to control characters.
_WINDOWS_CODECS = frozenset({"cp874", *(f"cp{number}" for number in range(1250, 1259))})
# WHATWG Encoding standard section 14.5: x-user-defined maps 0x80 to 0xFF to U+F780 to U+F7FF.
_USER_DEFINED_TABLE = "".join(map(chr, range(128))) + "".join(chr(0xF780 + offset) for offset in range(128))


def _keep_c1_controls(error: UnicodeError) -> tuple[str, int]:
    """Handle a byte that the codec does not map: keep it if it is below 0xA0, where the C1 control characters are."""
    assert isinstance(error, UnicodeDecodeError)
    byte = error.object[error.start]
    return (chr(byte) if byte < 0xA0 else "\ufffd", error.start + 1)


codecs.register_error(_C1_HANDLER, _keep_c1_controls)


def charset_of(content_type: str) -> str:
    """Return the charset of a Content-Type in lower case, utf-8 when it has none."""
    found = _CHARSET.search(content_type)
    return (found[1] or found[2]).lower() if found else "utf-8"


def _find_codec(charset: str) -> str:
    """Return the codec for a charset: of the standard library, `REPLACEMENT` or `USER_DEFINED`."""
    label = charset.strip("\t\n\f\r ").lower()
    if label in CODECS:
        return CODECS[label]
    name = normalize_encoding(label) if label.isascii() else ""
    name = aliases.get(name, name)
    # The decoders of these two raise without a byte order mark. Browsers read UTF-16 without one as little-endian.
    if name in ("utf_16", "utf_32"):
        return name + "_le"
    return name if name in _TEXT_CODECS else "utf_8"


def decode_text(body: bytes, charset: str) -> str:
    """Decode `body` by its byte order mark, else by `charset`; U+FFFD for invalid bytes. Never raises."""
    decoder = TextDecoder(charset)
    return decoder.feed(body, last=True)


class TextDecoder:
    """Decodes a body that arrives in pieces; the same rules as `decode_text`."""

    __slots__ = ("_charset", "_codec", "_decoder", "_held", "_marks")

    def __init__(self, charset: str, *, marks: tuple[tuple[bytes, str], ...] = BYTE_ORDER_MARKS) -> None:
        self._charset = charset
        self._marks = marks
        self._codec = ""
        self._decoder: codecs.IncrementalDecoder | None = None
        # The first bytes, until it is known whether they are a byte order mark.
        self._held = b""

    def feed(self, data: bytes, *, last: bool = False) -> str:
        """Return the text that `data` completes; with `last` also what an incomplete character becomes."""
        if self._decoder is None:
            data = self._held + data
            self._held = b""
            if not last and len(data) < 3 and any(mark.startswith(data) for mark, _ in self._marks):
                self._held = data
                return ""
            for mark, codec in self._marks:
                if data.startswith(mark):
                    self._codec = codec
                    data = data[len(mark) :]
                    break
            else:
                self._codec = _find_codec(self._charset)
            self._decoder = _make_decoder(self._codec)
        try:
            return self._decoder.decode(data, last)
        except UnicodeError:
            # The decoders of ISO 2022 raise when they hold too much of an invalid sequence, whatever `errors` is.
            self._decoder.reset()
            return "\ufffd" + data.decode(self._codec, "replace")


def _make_decoder(codec: str) -> codecs.IncrementalDecoder:
    if codec == USER_DEFINED:
        return _UserDefined()
    if codec == REPLACEMENT:
        return _Replacement()
    errors = _C1_HANDLER if codec in _WINDOWS_CODECS else "replace"
    return codecs.getincrementaldecoder(codec)(errors)


class _UserDefined(codecs.IncrementalDecoder):
    def decode(self, data: bytes, final: bool = False) -> str:  # type: ignore[override]
        return codecs.charmap_decode(data, "replace", _USER_DEFINED_TABLE)[0]


class _Replacement(codecs.IncrementalDecoder):
    """One U+FFFD for the whole body, unless it is empty (WHATWG Encoding standard section 14.1)."""

    began = False

    def decode(self, data: bytes, final: bool = False) -> str:  # type: ignore[override]
        first = bool(data) and not self.began
        self.began = self.began or first
        return "\ufffd" if first else ""
