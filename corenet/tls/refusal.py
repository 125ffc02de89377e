"""The error for certificates that OpenSSL accepts and we refuse: no pin matches, or a staple is missing or wrong."""

import ssl

__all__ = ["CertificateRefused", "StapleExpired"]


class CertificateRefused(ssl.SSLCertVerificationError):
    """A server's certificate was refused; the message is a sentence with the reason."""

    def __init__(self, sentence: str) -> None:
        super().__init__(1, sentence)
        self.verify_code = 0
        self.verify_message = sentence
        self.reason = "CERTIFICATE_VERIFY_FAILED"


class StapleExpired(CertificateRefused):
    """An OCSP staple was good and is stale now; `until` is its end in seconds since the epoch. It is a ValueError."""

    def __init__(self, sentence: str, until: float) -> None:
        super().__init__(sentence)
        self.until = until
