"""What every page is made of: templates that escape, figures inside the page, tables as Markdown and LaTeX."""

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from raydaa.version import __version__


def render(template: str, values: dict[str, Any], data: dict[str, Any] | None = None) -> str:
    """A self-contained HTML page, in which all values are escaped.

    With ``data``, which lies in it as JSON that no text can end, Plotly and the reports' own script bring it to life.
    They are the only code that a browser runs there: the page's policy names them by their hashes, and no other origin.
    """
    scripts = [] if data is None else [get_plotlyjs(), script("report.js")]
    environment = Environment(loader=PackageLoader("raydaa.reporting"), autoescape=True, trim_blocks=True)
    hashes = [base64.b64encode(hashlib.sha256(source.encode()).digest()).decode() for source in scripts]
    allowed = "".join(["script-src", *(f" 'sha256-{source}'" for source in hashes), "; "]) if scripts else ""
    policy = f"default-src 'none'; {allowed}style-src 'unsafe-inline'; img-src data: blob:"
    code = {"data": Markup(_as_json(data)), "scripts": [Markup(source) for source in scripts]}
    return environment.get_template(template).render(version=__version__, policy=policy, code=code, **values)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def script(name: str) -> str:
    """A script of the templates' folder."""
    return (files("raydaa.reporting") / "templates" / name).read_text(encoding="utf-8")


def _as_json(data: Any) -> str:
    """JSON in which nothing is markup, and a number that is none is null."""
    text = json.dumps(_finite(data), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


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
