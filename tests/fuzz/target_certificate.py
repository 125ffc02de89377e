"""The fields that a server reads of its own certificate: any file is read, or refused with ValueError.

An input is taken as PEM text and as the DER content of a PEM file.
"""

import base64

from corenet.tls import certificate_info


def run(data: bytes) -> None:
    """One input."""
    for pem in (data, b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(data) + b"-----END CERTIFICATE-----\n"):
        try:
            info = certificate_info(pem)
        except ValueError:
            continue
        assert isinstance(info.not_after, int) and all(name == name.lower() for name in info.names)
