"""DNSSEC validation: from a raw reply to a verdict, sans-IO (RFC 4033 to 4035, 5155, 6840).

`create(settings)` makes the validator of a configuration; `resolve.py` calls its `validate` for each reply. Only
`verify` does cryptography.
"""

from resolver.validate.validate import Validator, create

__all__ = ["Validator", "create"]
