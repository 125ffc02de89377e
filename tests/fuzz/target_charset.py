"""Charsets: whatever a Content-Type says, the body becomes text.

The input is split at the first NUL into the field's value and the body.
"""

from corenet.http.charset import TextDecoder, charset_of, decode_text


def run(data: bytes) -> None:
    """One input: Content-Type NUL body."""
    field, _, body = data.partition(b"\0")
    charset = charset_of(field.decode("latin-1"))
    assert charset and charset == charset.lower()
    text = decode_text(body, charset)
    assert isinstance(text, str)
    if charset == "utf-8" and not body.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        assert text == body.decode("utf-8", "replace")
    decoder = TextDecoder(charset)
    pieces = [decoder.feed(body[at : at + 3]) for at in range(0, len(body), 3)]
    assert "".join(pieces) + decoder.feed(b"", last=True) == text
