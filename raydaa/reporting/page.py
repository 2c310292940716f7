"""What every page is made of: templates that escape, figures inside the page, tables as Markdown."""

import base64
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from raydaa import __version__


def render(template: str, values: dict[str, Any]) -> str:
    """A self-contained HTML page; all values are escaped."""
    environment = Environment(loader=PackageLoader("raydaa.reporting"), autoescape=True, trim_blocks=True)
    return environment.get_template(template).render(version=__version__, **values)


def data_url(path: Path) -> str:
    """An SVG file as a URL that needs no file."""
    return "data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode()


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells as Markdown."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(header), line(["---"] * len(header)), *map(line, rows)])
