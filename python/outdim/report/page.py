"""Renders pages: one file that loads nothing and executes only its own three scripts."""

import base64
import gzip
import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from outdim import __version__
from outdim.files import write_bytes
from outdim.report.cautions import folded, of_study
from outdim.report.colours import DARK, DIVERGING, DIVERGING_DARK
from outdim.report.details import data_files, details, result_files
from outdim.report.figures.base import Figure
from outdim.report.figures.folder import keep_only, note
from outdim.report.section import Section
from outdim.report.sections import section_of
from outdim.report.sections.detect import outliers
from outdim.report.study import Study, read_study
from outdim.report.text import short_path

# Who cannot unpack the library of the plots is shown the drawings.
_START = 'if ("DecompressionStream" in window) document.documentElement.className = "js";'

_PLAIN = " !$()*+,-./:;=?@[]^_`{|}~"  # need no escape in a URL of data within an attribute


class Finding(NamedTuple):
    """What leads a page: of a step, its section's title, its lead, and what takes that back."""

    step: str
    title: str
    lead: str
    doubts: Sequence[str]


def write_report(run_dir: str | Path, out: str | Path | None = None) -> Path:
    """Write the HTML report of a run, and the folder figures (SVG and CSV) beside it.

    The page is one file that loads nothing from the network. Each file appears whole or not at all.

    Args:
        run_dir: Run directory; whatever steps it holds are shown.
        out: The HTML file; None takes report.html in the run directory.

    Returns:
        The path of the HTML file.

    Raises:
        DataError: run_dir is no run directory, or a file of it is damaged or was altered.

    Example:
        >>> write_report("runs/bert")  # doctest: +SKIP
        PosixPath('runs/bert/report.html')
    """
    study = read_study(run_dir)
    path = study.path / "report.html" if out is None else Path(out)
    shown = sections(study)
    figures = [figure for section in shown for figure in section.figures]
    return write_page(path, "report.html.j2", figures, **_content(study, shown))


def sections(study: Study, steps: Sequence[str] | None = None) -> list[Section]:
    """What is shown of each step, or of some; the outliers have the first of the colours."""
    marked = outliers(study)
    for dim in marked:
        study.palette.of(dim)
    return [section_of(study, step, marked) for step in (study.steps if steps is None else steps)]


def layers_in_words(study: Study) -> str:
    """Say which output the number of a layer means; nothing where no layer is spoken of."""
    if not study.statistics:
        return ""
    note = (study.manifest.get("model") or {}).get("hidden_states") or ""
    start = "Layer i is the output of block i − 1 (block.0 is the first); layer 0, “emb”, is the"
    return f"{start} embeddings. {note}".strip()


def write_page(path: Path, template: str, figures: list[Figure], **content: Any) -> Path:
    """Render a template that extends base.html.j2 and write it with its figures."""
    folder = path.parent / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    note(folder, path.name, {figure.id for figure in figures})
    shown = {figure.id: _shown(figure, figure.save(folder)) for figure in figures}
    page = (
        _environment()
        .get_template(template)
        .render(
            figures=shown,
            version=__version__,
            style=Markup(_asset("report.css")),
            start_script=Markup(_START),
            script=Markup(_asset("report.js")),
            plotly=_packed_plotly(),
            policy=_policy(),
            dark_colours={**DARK, **dict(zip(DIVERGING, DIVERGING_DARK, strict=True))},
            **content,
        )
    )
    write_bytes(path, page.encode(errors="backslashreplace"))  # names of files need not be text
    keep_only(folder, path.name, set(shown))
    return path


def packed(text: str) -> str:
    """A text as gzip in base64, which nothing in it can end: two fifths of plotly.js, or less."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _content(study: Study, shown: list[Section]) -> dict[str, Any]:
    manifest = study.manifest
    model, tokenizer = (manifest.get(part) or {} for part in ("model", "tokenizer"))
    title = model.get("name") or tokenizer.get("name") or study.path.resolve().name
    kept = [s for s in shown if s.tables or s.figures or study.sentences("headlines", s.step)]
    return {
        "kind": "Outlier dimensions" if model else "Token frequencies",
        "title": short_path(str(title)),
        "subtitle": _subtitle(study),
        "date": str(manifest.get("created") or "")[:10],
        "contents": [
            ("findings", "What was found"),
            *((f"step-{section.step}", section.title) for section in kept),
            ("run", "What was run"),
            ("definitions", "Definitions"),
        ],
        "findings": [
            Finding(section.step, section.title, lead, study.sentences("doubts", section.step))
            for section in kept
            if (lead := study.lead(section.step))
        ],
        "sections": [
            (
                section,
                study.sentences("headlines", section.step),
                study.sentences("doubts", section.step),
                folded(study, section.step),
            )
            for section in kept
        ],
        "layer_note": layers_in_words(study),
        "cautions": of_study(study),
        "details": details(study),
        "files": data_files(study),
        "results": result_files(study),
        "sources": _sources(study),
        "definitions": [section.definitions for section in kept if section.definitions],
    }


def _subtitle(study: Study) -> str:
    model, data = (study.manifest.get(part) or {} for part in ("model", "data"))
    parts = []
    if model.get("layers") and model.get("hidden_size"):
        parts.append(f"{model['layers']} layers × {model['hidden_size']:,} dimensions")
    if source := data.get("source"):
        one_file = Path(source).is_absolute() and ", " not in source
        parts.append(f"on {short_path(source) if one_file else source}")
    return " · ".join(parts)


def _sources(study: Study) -> list[tuple[str, str]]:
    """Label and source of every statistic that is shown and has a source."""
    shown = {key.definition for found in study.statistics.values() for key in found.values}
    return sorted((statistic.label, statistic.source) for statistic in shown if statistic.source)


def _shown(figure: Figure, svg: bytes) -> dict[str, Any]:
    return {
        "id": figure.id,
        "title": figure.title,
        "caption": figure.caption,
        "alt": figure.alt,
        "choices": figure.choices,
        "height": figure.interactive.layout.height,
        "rows": f"{figure.table.num_rows:,}",
        "image": "data:image/svg+xml," + quote(svg, safe=_PLAIN),
        "data": packed(figure.interactive.to_json(validate=False)),
    }


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("outdim.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _asset(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    bundle: str = get_plotlyjs()
    return bundle


@cache
def _packed_plotly() -> str:
    return packed(_plotly())


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
