"""``python -m stir_core`` is ``stir``."""

from stir_core.cli import main

raise SystemExit(main())
