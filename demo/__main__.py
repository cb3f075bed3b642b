"""``python -m demo up | status | down``."""

from __future__ import annotations

import argparse
import sys

from demo.console import Console
from demo.errors import DemoError
from demo.places import REPOSITORY_ROOT


def main() -> int:
    """Run one verb; returns the exit code."""
    parser = argparse.ArgumentParser(prog="demo", description="A ledger, backed up and proven by Airflow.")
    parser.add_argument("verb", choices=("up", "status", "down"))
    verb = parser.parse_args().verb
    sys.path.insert(0, str(REPOSITORY_ROOT / "plugins"))
    console = Console()
    try:
        if verb == "up":
            from demo.up import up

            return up(console)
        from demo.down import down, status

        return down(console) if verb == "down" else status(console)
    except DemoError as error:
        console.end_live()
        print(f"demo: error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
