"""A command line that cannot be understood: every message names what was expected and what came."""

import re
import shlex
import typing

import pytest
from outdim import cli
from outdim.cli import main
from outdim.commands import Group, commands, find
from outdim.usage import fields_of


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("compare --output x", "the following arguments are required: FIRST, SECOND"),
        ("compare a --output x", "the following arguments are required: SECOND"),
        ("report", "the following arguments are required: RUN"),
        ("evaluate glue --task sst2", "the following arguments are required: --model, --output"),
        ("analyze", "the following arguments are required: TEXT, --model, --output"),
        ("sweep lm --model m --output o", "the following arguments are required: TEXT"),
        ("count t --output o", "the following arguments are required: --tokenizer"),
        ("evaluate fill --model m", "the following arguments are required: SENTENCE, --output"),
        (
            "evaluate glue --task nonsense --model m --output x",
            "task: expected one of cola, sst2, mrpc, stsb, qqp, mnli, mnli_mm, qnli, rte, wnli, "
            "other; got 'nonsense'",
        ),
        ("evaluate lm t --only delta", "only: expected one of gamma, beta; got 'delta'"),
        ("evaluate lm t --layers 1 b", "layers: expected a whole number; got 'b'"),
        ("evaluate lm t --scale half", "scale: expected a number; got 'half'"),
        ("evaluate sts --rows many", "rows: expected a whole number; got 'many'"),
        ("sweep lm t --block 1.5", "block: expected a whole number; got '1.5'"),
        ("sweep lm t --variants-at-once x", "variants-at-once: expected a whole number; got 'x'"),
        ("analyze t --geometry.top x", "geometry.top: expected a whole number; got 'x'"),
        ("count t --documents=3", "--documents: expected no value, got '3'; --no- before its name"),
        ("cuont x", "there is no 'cuont'; did you mean count?; expected count, detect, "),
        ("evaluate lmm x", "there is no 'lmm'; did you mean lm?; expected glue, "),
        ("zzz x", "there is no 'zzz'; expected count, detect, "),
        (
            "correlate t --model m --output o --tokeniser k --min_charz=3",
            "unrecognized arguments: --tokeniser k --min-charz=3; did you mean --tokenizer, "
            "--min-chars?",
        ),
        (
            "count t --model m --output o",
            "unrecognized arguments: --model m; did you mean --tokenizer?",
        ),
        (
            "count t --config {path}",
            "config: expected a file of YAML with lines such as seed: 1; got YAML amiss: while",
        ),
    ],
)
def test_what_is_expected_is_said_in_the_words_of_the_usage(given, said, capsys, tmp_path):
    path = tmp_path / "options.yaml"
    path.write_text("{a: [}")
    with pytest.raises(SystemExit) as left:
        main(given.format(path=path).split())
    assert left.value.code == 2
    found = capsys.readouterr().err
    assert f"error: {said}" in found
    for own in ("Parser key", "typing", "<class", "--first"):
        assert own not in found


def test_what_is_said_of_one_value_is_said_of_one_in_a_file(capsys, tmp_path):
    path = tmp_path / "options.yaml"
    path.write_text("rows: many\ntask: nonsense\n")
    with pytest.raises(SystemExit):
        main(["evaluate", "glue", "--config", str(path)])
    assert "rows: expected a whole number; got 'many'" in capsys.readouterr().err


def every_command(known, above=()):
    for name, listed in known.items():
        words = [*above, name]
        yield from every_command(listed.members, words) if isinstance(listed, Group) else [words]


def test_usage_shows_a_line_of_every_command_that_is_understood(capsys):
    known = commands()
    for words in every_command(known):
        _, listed = find(known, words)
        parser = cli._parser(known, words, listed.load())
        usage, _, example = parser.named.usage.partition("\nexample: ")
        assert usage.startswith(" ".join(["outdim", *words])), words
        if not example:
            assert usage.endswith(f"{words[-1]} [options]"), words
            continue
        assert f"\nexample: {example}\n" in parser.named.format_help()
        assert parser.parse_args(shlex.split(example)[1:]).subcommand == words[0]


def test_help_speaks_of_what_is_typed():
    """No type of Python, no value that is refused as it is written, no option that is not there."""
    known = commands()
    for words in every_command(known):
        _, listed = find(known, words)
        command = listed.load()
        parser = cli._parser(known, words, command).named
        said = " ".join(parser.format_help().split())
        assert not re.findall(
            r"Optional|Literal|<class|\(type|null|None\b(?! of)|outdim\.\w+|--\w+_\w+", said
        )
        for name, (_, hint) in fields_of(command.options()).items():
            own = next((a.help for a in parser._actions if a.dest == name), "")
            values = typing.get_args(next(iter(typing.get_args(hint)), None)) or typing.get_args(
                hint
            )
            values = {value for value in values if isinstance(value, str)}
            values |= {"zero", "state", "all", "random", "gamma"} & set(own.lower().split())
            assert not [v for v in values if re.search(rf"\b{v.capitalize()}\b", own)], (words, own)


def test_an_error_shows_that_line(capsys):
    with pytest.raises(SystemExit):
        main(["sweep", "lm"])
    shown = "example: outdim sweep lm python-docs --model gpt2 --output runs/new\n"
    assert shown in capsys.readouterr().err
