"""Renders pages: one file that loads nothing and executes only its own three scripts."""

import base64
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from outdim import __version__
from outdim.files import write_bytes
from outdim.report.cautions import cautions
from outdim.report.colours import DARK, DIVERGING, DIVERGING_DARK
from outdim.report.facts import data_files, fact_groups
from outdim.report.figures import Figure, figures_of
from outdim.report.findings import (
    findings,
    has_beta,
    layer_table,
    layers_in_words,
    outlier_table,
    rule_in_words,
)
from outdim.report.run_files import Run, read_run
from outdim.report.text import number, short_path

_START = 'document.documentElement.className = "js";'


def write_report(run_dir: str | Path, out: str | Path | None = None) -> Path:
    """Write the HTML report of a run, and the folder figures (SVG and CSV) beside it.

    The page is one file that loads nothing from the network. Each file appears whole or not at all.

    Args:
        run_dir: Run directory; whatever parts it holds are shown.
        out: The HTML file; None takes report.html in the run directory.

    Returns:
        The path of the HTML file.

    Raises:
        DataError: run_dir is not a run directory, or a part of it cannot be read.

    Example:
        >>> write_report("runs/bert")  # doctest: +SKIP
        PosixPath('runs/bert/report.html')
    """
    run = read_run(run_dir)
    path = run.path / "report.html" if out is None else Path(out)
    return write_page(path, "report.html.j2", figures_of(run), **_content(run))


def write_page(path: Path, template: str, figures: list[Figure], **content: Any) -> Path:
    """Render a template that extends base.html.j2 and write it with its figures."""
    folder = path.parent / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    shown = [_shown(figure, figure.save(folder)) for figure in figures]
    page = (
        _environment()
        .get_template(template)
        .render(
            figures=shown,
            version=__version__,
            style=Markup(_asset("report.css")),
            start_script=Markup(_START),
            script=Markup(_asset("report.js")),
            plotly=Markup(_plotly()),
            policy=_policy(),
            dark_colours=embedded_json(
                json.dumps({**DARK, **dict(zip(DIVERGING, DIVERGING_DARK, strict=True))})
            ),
            **content,
        )
    )
    write_bytes(path, page.encode())
    return path


def embedded_json(text: str) -> Markup:
    """Make JSON safe inside <script type="application/json">: no tag can begin or end in it."""
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _content(run: Run) -> dict[str, Any]:
    model = run.manifest.get("model") or {}
    tokenizer = run.manifest.get("tokenizer") or {}
    data = run.manifest.get("data") or {}
    outliers, layers = outlier_table(run), layer_table(run)
    groups = fact_groups(run)
    title = model.get("name") or tokenizer.get("name") or run.path.resolve().name
    sections = [
        ("findings", "What was found", True),
        (
            "outliers",
            "Nearest to outliers" if outliers and outliers.nearest else "Outlier dimensions",
            outliers,
        ),
        ("layers", "Correlation by layer", layers),
        ("figures", "Figures", run.statistics or run.counts),
        ("run", "What was run", groups),
        ("definitions", "Definitions", True),
    ]
    return {
        "kind": "Outlier dimensions and token frequency",
        "title": short_path(str(title)),
        "subtitle": _subtitle(run, str(data.get("source") or "")),
        "date": str(run.manifest.get("created") or "")[:10],
        "sections": [(id_, name) for id_, name, there in sections if there],
        "findings": findings(run),
        "layer_note": layers_in_words(run),
        "cautions": cautions(run),
        "outliers": outliers,
        "layers": layers,
        "facts_groups": groups,
        "files": data_files(run),
        "rule": rule_in_words(run.detection, has_beta(run.detection)) if run.detection else "",
    }


def _subtitle(run: Run, source: str) -> str:
    model = run.manifest.get("model") or {}
    parts = []
    if model.get("layers") and model.get("hidden_size"):
        parts.append(f"{model['layers']} layers × {model['hidden_size']:,} dimensions")
    if source:
        parts.append(f"on {source}")
    return " · ".join(parts)


def _shown(figure: Figure, svg: bytes) -> dict[str, Any]:
    return {
        "id": figure.id,
        "title": figure.title,
        "caption": figure.caption,
        "alt": figure.alt,
        "choices": figure.choices,
        "height": figure.interactive.layout.height,
        "rows": f"{figure.table.num_rows:,}",
        "image": "data:image/svg+xml;base64," + base64.b64encode(svg).decode(),
        "data": embedded_json(figure.interactive.to_json(validate=False)),
    }


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("outdim.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["number"] = number
    return environment


def _asset(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    bundle: str = get_plotlyjs()
    return bundle


def _policy() -> str:
    """Content security policy: the page's own scripts by their hash, nothing from anywhere else."""
    hashes = [
        "'sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() + "'"
        for script in (_START, _plotly(), _asset("report.js"))
    ]
    return (
        f"default-src 'none'; script-src {' '.join(hashes)}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
