"""The command line: options from dataclasses, results on stdout, messages on stderr."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import docstring_parser
from jsonargparse import SUPPRESS, ActionYesNo, ArgumentParser, Namespace

from outdim import __version__, options
from outdim.errors import OutdimError

_EPILOG = (
    "--min-chars and --min_chars are the same. "
    "Exit codes: 0 done, 2 usage, 3 data or environment, 4 partial (some shards are missing), "
    "5 the run directory belongs to another run, 130/143 interrupted and resumable."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = _parser()
    arguments = [_underscored(argument) for argument in (sys.argv[1:] if argv is None else argv)]
    config = parser.parse_args(arguments)  # leaves with exit code 2 and the usage when it cannot
    command: str = config.subcommand
    try:
        _COMMANDS[command][1](config[command])
        sys.stdout.flush()  # here, where a reader that left can still be told from an error
    except OutdimError as error:
        print(f"outdim {command}: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader of stdout left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more
        return 0
    except OSError as error:  # no permission, an unreadable disk
        print(f"outdim {command}: {error}", file=sys.stderr)
        return OutdimError.exit_code
    except KeyboardInterrupt:  # before there was anything to resume
        print(f"outdim {command}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BaseException as error:
        from outdim.run.stages import Interrupted

        if isinstance(error, Interrupted):
            said = "; ".join([str(error), *getattr(error, "__notes__", ())])
            print(
                f"outdim {command}: {said}; give the same command again to go on", file=sys.stderr
            )
            return error.exit_code
        raise
    return 0


def _count(config: Namespace) -> None:
    from outdim.run import commands

    if config.compare:
        first, second = config.compare
        print(commands.compare(first, second, config.output))
    else:
        _print(commands.count(config.get("source", ()), _options(options.CountOptions, config)))


def _print(run: Path | None) -> None:
    """What was found, for people, on stderr; where it is, for programs, on stdout."""
    if run is not None:
        from outdim.report import summary

        if (run / "report.html").exists():
            print(summary(run), file=sys.stderr)
        print(run)


def _detect(config: Namespace) -> None:
    from outdim.run import commands

    _print(commands.detect(_options(options.DetectOptions, config)))


def _correlate(config: Namespace) -> None:
    from outdim.run import commands

    _print(commands.correlate(config.get("source", ()), _options(options.CorrelateOptions, config)))


def _report(config: Namespace) -> None:
    from outdim.report import write_report

    print(write_report(config.run))


def _demo(config: Namespace) -> None:
    from outdim import demo

    demo.main(config.output)


def _doctor(config: Namespace) -> None:
    from outdim import doctor

    print(doctor.examine())


def _bench(config: Namespace) -> None:
    from outdim import bench

    bench.main(device=config.device, json=config.json)


_COMMANDS: dict[str, tuple[str, Callable[[Namespace], None]]] = {
    "count": ("Count the tokens of a corpus.", _count),
    "detect": ("Find outlier dimensions by their LayerNorm parameters.", _detect),
    "correlate": ("Correlate hidden states with token frequency.", _correlate),
    "report": ("Write the HTML report of a run.", _report),
    "demo": ("Run everything on a small real model, with nothing to download.", _demo),
    "doctor": ("Say what is there, what is missing, and what to do.", _doctor),
    "bench": ("Measure the kernels against torch and against this machine's memory.", _bench),
}


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="outdim",
        description="Find, explain and test the outlier dimensions of Transformers.",
        epilog=_EPILOG,
        version=__version__,
    )
    commands = parser.add_subcommands(required=True, metavar="COMMAND")
    for name, (description, _) in _COMMANDS.items():
        usage = f"outdim {name} {_USAGE[name]}[options]"
        command = ArgumentParser(description=description, epilog=_EPILOG, usage=usage)
        command.add_argument("--config", action="config", help="YAML file with options")
        _ARGUMENTS[name](command)
        commands.add_subcommand(name, command, help=description)
    return parser


def _corpus_argument(parser: ArgumentParser) -> None:
    parser.add_argument(
        "source",
        nargs="*",
        type=str,
        default=SUPPRESS,  # an empty list would hide the one of a config file
        metavar="TEXT",
        help="first of all: local parquet, jsonl, txt files or globs (also .gz, .zst), a Hugging "
        "Face id, or python-docs, the English documentation inside Python itself",
    )


def _count_arguments(parser: ArgumentParser) -> None:
    _corpus_argument(parser)
    _add_options(parser, options.CountOptions)
    parser.add_argument(
        "--compare",
        nargs=2,
        type=str,
        metavar=("A", "B"),
        help="instead of counting: compare two counts.parquet (or runs); give --output as well",
    )


def _correlate_arguments(parser: ArgumentParser) -> None:
    _corpus_argument(parser)
    _add_options(parser, options.CorrelateOptions)


def _report_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=str, help="run directory")


def _demo_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--output", type=str | None, help="run directory; default: runs/demo-<time>"
    )


def _bench_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--device", type=str, default="cpu", help="cpu or cuda")
    parser.add_argument("--json", type=str | None, help="write the rows to this file as well")


_USAGE = {
    "count": "TEXT... --tokenizer NAME --output DIR ",
    "detect": "--model NAME --output DIR ",
    "correlate": "TEXT... --model NAME --output DIR ",
    "report": "RUN ",
    "demo": "",
    "doctor": "",
    "bench": "",
}

_ARGUMENTS: dict[str, Callable[[ArgumentParser], None]] = {
    "count": _count_arguments,
    "detect": lambda parser: _add_options(parser, options.DetectOptions),
    "correlate": _correlate_arguments,
    "report": _report_arguments,
    "demo": _demo_arguments,
    "doctor": lambda parser: None,
    "bench": _bench_arguments,
}


def _add_options(parser: ArgumentParser, kind: type) -> None:
    """Flags from a dataclass; lists take several words and booleans are --flag, --no_flag."""
    types = typing.get_type_hints(kind)
    help_of = {
        parameter.arg_name: parameter.description
        for base in kind.__mro__
        for parameter in docstring_parser.parse(base.__doc__ or "").params
    }
    special = {
        field.name: field
        for field in dataclasses.fields(kind)
        if types[field.name] is bool or typing.get_origin(_bare(types[field.name])) is list
    }
    parser.add_class_arguments(kind, None, skip=set(special))
    for name, field in special.items():
        if types[name] is bool:
            parser.add_argument(
                f"--{name}",
                action=ActionYesNo(yes_prefix="", no_prefix="no_"),
                default=field.default,
                help=help_of[name],
            )
        else:
            (item,) = typing.get_args(_bare(types[name]))
            parser.add_argument(f"--{name}", nargs="+", type=item, help=help_of[name])


def _bare(hint: Any) -> Any:
    """``X | None`` -> ``X``."""
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    return kinds[0] if len(kinds) == 1 and type(None) in typing.get_args(hint) else hint


def _options(kind: type, config: Namespace) -> Any:
    return kind(**{field.name: config[field.name] for field in dataclasses.fields(kind)})


def _underscored(argument: str) -> str:
    """``--min-chars`` and ``--min_chars`` are the same."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value
