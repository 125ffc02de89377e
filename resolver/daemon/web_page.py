"""The web page as one document: the files of `assets` put together, and the Content-Security-Policy that permits them.

The style sheet and the script are in the document, and the policy has their hashes. So a browser runs nothing else,
also not when text from the network became part of the document. `require-trusted-types-for` makes the ways by which a
script turns text into markup errors.
"""

import base64
import hashlib
from importlib import resources

__all__ = ["load_page"]

ASSETS = resources.files("resolver.daemon") / "assets"
STYLE_PLACE, SCRIPT_PLACE = "/* style */", "/* script */"


def load_page() -> tuple[bytes, str]:
    """The document and its policy.

    Raises:
        OSError: a file of the package cannot be read.
    """
    page, style, script = ((ASSETS / name).read_text("utf-8") for name in ("page.html", "page.css", "page.js"))
    policy = "; ".join((
        "default-src 'none'", f"style-src '{_hash(style)}'", f"script-src '{_hash(script)}'", "connect-src 'self'",
        "img-src data:", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
        "require-trusted-types-for 'script'", "trusted-types 'none'",
    ))
    return page.replace(STYLE_PLACE, style).replace(SCRIPT_PLACE, script).encode(), policy


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"
