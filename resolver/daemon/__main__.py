"""``python -m resolver.daemon`` runs resolverd. The module only calls `main`."""

from resolver.daemon.entry import main

raise SystemExit(main())
