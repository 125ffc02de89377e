"""``python -m resolver.daemon`` is resolverd. The module only calls `main`, so that both names stay one program."""

from resolver.daemon.main import main

raise SystemExit(main())
