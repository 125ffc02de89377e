NUMBERS: frozenset[str]
