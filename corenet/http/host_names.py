"""Host names of URLs beyond ASCII: ToASCII of UTS #46 as the WHATWG URL standard calls it. Only this module uses IDNA.

Mapping is not transitional. Joiners and bidirectional text are checked, hyphens are not (`CheckHyphens=false`).
Encoding by IDNA 2008 alone refuses names that are in use: symbols such as U+2615, and a label such as `r3---a` in a
name with another label that is not ASCII. The caller checks the characters and the length of the result.
"""

import unicodedata

import idna

__all__ = ["to_ascii"]

_PREFIX = "xn--"
# RFC 1035 section 2.3.4. Punycode has at least one octet for each character, and its codec takes time that grows with
# the square of the length: longer labels are refused before it.
_LABEL_SIZE = 63
_JOINERS = frozenset("\u200c\u200d")
_RIGHT_TO_LEFT = frozenset(("R", "AL", "AN"))


def to_ascii(name: str) -> str:
    """`name` with each label in lower-case ASCII, those beyond ASCII as Punycode after the prefix `xn--`.

    Raises:
        ValueError: a label is not valid; the message has the reason.
    """
    labels = [_decoded(label) for label in idna.uts46_remap(name, False).split(".")]
    check_all = any(unicodedata.bidirectional(character) in _RIGHT_TO_LEFT for label in labels for character in label)
    return ".".join(_encoded(label, check_all) for label in labels)


def _decoded(label: str) -> str:
    """The label in Unicode (UTS #46 section 4 step 4)."""
    if not label.startswith(_PREFIX):
        return label
    if len(label) > _LABEL_SIZE:
        raise ValueError(f"the label {label!r} has more than {_LABEL_SIZE} characters")
    decoded = label[len(_PREFIX) :].encode("ascii").decode("punycode")
    # Another Punycode text for the same label would be another name for the same host.
    if decoded.isascii() or _PREFIX + _punycode(decoded) != label:
        raise ValueError(f"{label!r} is not the Punycode of a label")
    return decoded


def _encoded(label: str, right_to_left: bool) -> str:
    """The label in ASCII, after the validity criteria of UTS #46 section 4.1. Empty labels are the caller's matter."""
    if len(label) > _LABEL_SIZE:
        raise ValueError(f"the label {label!r} has more than {_LABEL_SIZE} characters")
    if right_to_left and label:
        idna.check_bidi(label, check_ltr=True)
    if label.isascii():
        return label
    # Mapping and normalising change a label unless each of its characters is valid and it is in NFC.
    if label.startswith(_PREFIX) or "." in label or idna.uts46_remap(label, False) != label:
        raise ValueError(f"the label {label!r} has characters that are not valid")
    idna.check_initial_combiner(label)
    for position, character in enumerate(label):
        if character in _JOINERS and not idna.valid_contextj(label, position):
            raise ValueError(f"the joiner at position {position + 1} of {label!r} joins nothing")
    return _PREFIX + _punycode(label)


def _punycode(label: str) -> str:
    return label.encode("punycode").decode("ascii")
