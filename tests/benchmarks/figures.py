"""How every benchmark shows what it measured."""

import json
from pathlib import Path
from typing import Any


def show(figures: dict[str, Any], place: Path) -> None:
    """All figures into a JSON file; those that are one number or word as a Markdown table on the terminal."""
    place.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print("| figure | value |\n|---|---|")
    for name, value in figures.items():
        if isinstance(value, str | int | float):
            print(f"| {name} | {value if isinstance(value, str) else format(value, '.4g')} |")
