"""DNSSEC validation: from a raw reply to a verdict, sans-IO (RFC 4033 to 4035, 5155, 6840).

`create(settings)` gives the validator of a configuration; `resolve.py` calls its `validate` once for each reply. The
room meets `iterate` only there, and cryptography only in `verify`.
"""

from resolver.validate.validate import Validator, create

__all__ = ["Validator", "create"]
