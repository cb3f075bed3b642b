"""``python -m mingus_engine``: the command line."""

from __future__ import annotations

import sys

from mingus_engine.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
