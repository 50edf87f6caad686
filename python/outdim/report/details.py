"""What was run, as rows of (name, value, HTML element of the value or "") for people."""

import json
from typing import Any

from outdim.report.study import Study
from outdim.text import listing, number

MAX_FILES = 50

Detail = tuple[str, str, str]

_TOKENS = {
    "documents": "documents used",
    "read": "tokens in them, with special tokens",
    "special": "of these, special tokens added by the tokenizer",
    "used": "text tokens in the statistics",
    "padded": "padding fed to the model, in no statistic",
    "excluded": "rows left out",
    "lifecycle": "tokens read for the lives of dimensions, special ones included",
    "lifecycle_sequences": "sequences of these",
}
_MODEL_TOKENS = _TOKENS | {  # a long document is read in several windows, of which each has its own
    "read": "tokens read by the model, in windows",
    "special": "of these, special tokens of the windows",
}
_ACCOUNTING = {
    "documents": "documents",
    "characters": "characters",
    "bytes": "bytes",
    "tokens": "tokens counted, in whole documents",
    "special": "of these, special tokens of the documents",
    "places": "first rows that could not be read",
}
_NAMES = {
    "sha256": "SHA-256",
    "cpu": "CPU",
    "gpu": "GPU",
    "isa": "instruction set",
    "hidden_size": "hidden size (D)",
    "layers": "layers (L)",
    "placement": "LayerNorm placement",
    "vocab_size": "vocabulary size (V)",
    "python": "Python",
    "torch": "PyTorch",
    "why": "why this method",
    "tokens_per_second": "tokens per second",
}
_ELEMENTS = {
    **dict.fromkeys(("sha256", "path", "command", "platform"), "code"),
    **dict.fromkeys(("begun", "finished"), "time"),
}


def details(study: Study) -> list[tuple[str, list[Detail]]]:
    """What the manifest says by subject, leaving out what it does not."""
    manifest = study.manifest
    data = {k: v for k, v in (manifest.get("data") or {}).items() if k != "files"}
    subjects = [
        ("Run", _about_the_run(manifest)),
        ("Tokens", _about_tokens(study)),
        ("Model", _rows(manifest.get("model"))),
        ("Tokenizer", _rows(manifest.get("tokenizer"))),
        ("Data", _rows(data)),
        ("Counting", _about_counting(manifest.get("counting") or {})),
        ("Machine and versions", _rows(manifest.get("machine"))),
        *((f"Options of {step}", _options(study, step)) for step in study.options),
    ]
    return [(name, rows) for name, rows in subjects if rows]


def data_files(study: Study) -> dict[str, Any]:
    """The first files that were read, and how many there were."""
    files = (study.manifest.get("data") or {}).get("files") or []
    rows = [
        [
            str(file.get("path", "")),
            value_text(file.get("size_bytes")),
            str(file.get("sha256") or "")[:16],
        ]
        for file in files[:MAX_FILES]
    ]
    return {"rows": rows, "total": len(files)}


def result_files(study: Study) -> list[list[str]]:
    """Every file of results: name, bytes, rows and columns, hash."""
    return [
        [
            file.name,
            number(file.size_bytes),
            "" if file.rows is None else number(file.rows),
            listing(file.columns, 20),
            file.sha256[:16],
        ]
        for file in study.files()
    ]


def value_text(value: Any) -> str:
    """Write a value of the manifest for people."""
    if value is None or value == {} or value == []:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return number(value, 2)
    if isinstance(value, dict):
        return ", ".join(f"{key}: {value_text(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(value_text(item) for item in value)
    return str(value) if isinstance(value, str) else json.dumps(value)


def _about_the_run(manifest: dict[str, Any]) -> list[Detail]:
    rows = [
        ("command", manifest.get("command")),
        ("begun", manifest.get("created")),
        ("finished", manifest.get("finished")),
        ("outdim", manifest.get("outdim")),
        ("seconds", manifest.get("seconds")),
        ("tokens_per_second", manifest.get("tokens_per_second")),
    ]
    return _rows({name: value for name, value in rows if value is not None})


def _about_tokens(study: Study) -> list[Detail]:
    tokens = study.manifest.get("tokens") or {}
    labels = _MODEL_TOKENS if "used" in tokens else _TOKENS
    others = {name: value for name, value in tokens.items() if name not in labels}
    rows = _labelled(tokens, labels) + _rows(others)
    if study.frequencies is not None:
        counts, special = study.frequencies.counts, study.frequencies.special
        rows += [
            (label, number(int(count)), "")
            for label, count in (
                ("text tokens counted", counts[~special].sum()),
                ("token ids in the vocabulary", len(special)),
                ("of these, ids of text", (~special).sum()),
                ("ids of text that occur", ((counts > 0) & ~special).sum()),
                ("special ids that occur", ((counts > 0) & special).sum()),
            )
        ]
    return rows


def _options(study: Study, step: str) -> list[Detail]:
    """All but lists of what results show one by one, such as the variants of a model."""
    options = {
        name: value
        for name, value in study.options[step].items()
        if not (isinstance(value, list | tuple) and value and isinstance(value[0], dict))
    }
    return [(name, value, "code") for name, value, _ in _rows(options)]


def _about_counting(counting: dict[str, Any]) -> list[Detail]:
    how = {name: value for name, value in counting.items() if name != "accounting"}
    accounting = {k: v for k, v in (counting.get("accounting") or {}).items() if v != []}
    return _rows(how) + _labelled(accounting, _ACCOUNTING)


def _labelled(values: dict[str, Any], labels: dict[str, str]) -> list[Detail]:
    return [
        (label, value_text(values[name]), "") for name, label in labels.items() if name in values
    ]


def _rows(values: dict[str, Any] | None) -> list[Detail]:
    """Rows of a part of the manifest, whose own order is alphabetical: names first, hashes last."""

    def place(name: str) -> int:
        return {"name": 0, "source": 0, "cpu": 0, "sha256": 2}.get(name, 1)

    return [
        (_NAMES.get(name, name.replace("_", " ")), value_text(value), _ELEMENTS.get(name, ""))
        for name, value in sorted((values or {}).items(), key=lambda item: place(item[0]))
    ]
