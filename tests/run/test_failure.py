"""Errors of workers: what was raised there is raised by the command, whatever it is."""

import re
import signal

import pytest
from outdim import cli
from outdim.corpus.files import UnreadableError
from outdim.errors import Interrupted, OutdimError
from outdim.run.failure import Failure


def _subclasses(kind: type) -> list[type]:
    return [kind, *(other for below in kind.__subclasses__() for other in _subclasses(below))]


MADE = {Interrupted: Interrupted(signal.SIGTERM), UnreadableError: UnreadableError("a", "gone")}


@pytest.mark.parametrize("kind", _subclasses(OutdimError))
def test_every_error_of_ours_arrives_as_it_was(kind):
    error = MADE.get(kind) or kind("what went wrong")
    found = Failure.of(error).error()
    assert type(found) is type(error)
    assert str(found) == str(error)
    assert found.exit_code == error.exit_code
    assert not hasattr(found, "__notes__")


def test_a_fault_arrives_with_the_traceback_of_where_it_was():
    def faulty():
        return {}["nothing"]

    with pytest.raises(KeyError) as caught:
        faulty()
    found = Failure.of(caught.value).error()
    assert type(found) is KeyError
    assert re.search(r"test_failure\.py.* in faulty\n.*nothing", found.__notes__[0])


def test_an_error_that_cannot_be_pickled_says_the_same():
    class Local(Exception):  # noqa: N818
        pass

    with pytest.raises(Local) as caught:
        raise Local("lost")
    found = Failure.of(caught.value).error()
    assert type(found) is RuntimeError
    assert "test_failure.py" in str(found)
    assert "Local: lost" in str(found)


@pytest.fixture
def failing(tmp_path, monkeypatch):
    """Processes of workers in which computing a shard raises what is said in a file."""
    module = tmp_path / "sitecustomize.py"
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")

    def make(statement: str) -> None:
        module.write_text(
            "import multiprocessing.spawn as spawn\n"
            "main = spawn._main\n"
            "def failing(*given):\n"
            "    from outdim.run.worker import Worker\n"
            "    def compute(self, steps, shard, progress):\n"
            f"        {statement}\n"
            "    Worker.compute = compute\n"
            "    return main(*given)\n"
            "spawn._main = failing\n"
        )

    return make


@pytest.mark.slow
@pytest.mark.parametrize(
    ("statement", "code", "said"),
    [
        ("None + 1", 1, "TypeError: unsupported operand"),
        ("raise MemoryError('12 GB')", 3, "out of memory (12 GB)"),
        ("raise PermissionError(13, 'denied', 'x')", 3, "[Errno 13] denied: 'x'"),
    ],
)
def test_the_command_ends_as_in_one_process(
    corpus, tiny_directory, tmp_path, failing, capsys, statement, code, said
):
    failing(statement)
    given = [
        "correlate", str(corpus), "--model", str(tiny_directory), "--output", str(tmp_path / "run"),
        "--shard-bytes", "1024", "--workers", "2", "--types", "0", "--rank", "--device", "cpu",
    ]  # fmt: skip
    if code == 1:
        with pytest.raises(TypeError, match="unsupported operand") as caught:
            cli.main(given)
        assert "sitecustomize.py" in caught.value.__notes__[0]
        assert said in caught.value.__notes__[0]
    else:
        assert cli.main(given) == code
        assert said in capsys.readouterr().err
