"""The simulation needs the debug build, which `make simulate` and `make test-sanitize` put first on the path."""

from corenet.core.counters import is_debug_build

collect_ignore_glob = [] if is_debug_build() else ["test_*.py"]
