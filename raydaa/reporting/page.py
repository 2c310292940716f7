"""What every page is made of: templates that escape, figures inside the page, tables as Markdown and LaTeX."""

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


TEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "−": "$-$",
    "±": r"$\pm$",
    "β": r"$\beta$",
    "κ": r"$\kappa$",
    "λ": r"$\lambda$",
}


def latex_table(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> str:
    """Cells as a LaTeX table with the rules of booktabs."""

    def text(value: str) -> str:
        return "".join(TEX.get(character, character) for character in str(value))

    def line(cells: Sequence[str]) -> str:
        return " & ".join(map(text, cells)) + r" \\"

    lines = [
        r"\begin{table}",
        rf"\caption{{{text(caption)}}}",
        rf"\begin{{tabular}}{{{'l' * len(header)}}}",
        r"\toprule",
    ]
    lines += [line(header), r"\midrule", *map(line, rows), r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells as Markdown."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(header), line(["---"] * len(header)), *map(line, rows)])
