"""Write the dashboards."""

import json
from pathlib import Path

from scripts.dashboards.boards import BOARDS

TARGET = Path(__file__).resolve().parents[2] / "include" / "monitoring" / "grafana" / "dashboards"


def written() -> dict[str, str]:
    """File name → text of each dashboard."""
    return {f"{board.uid}.json": json.dumps(board.as_json(), indent=1) + "\n" for board in BOARDS}


if __name__ == "__main__":
    TARGET.mkdir(parents=True, exist_ok=True)
    for name, text in written().items():
        (TARGET / name).write_text(text, encoding="utf-8")
        print(TARGET / name)
