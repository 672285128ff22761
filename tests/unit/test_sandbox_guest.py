"""What runs beside a program: its results, its ends, and what is shown of its mistakes."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.sandbox.core.results import Decoder, Result
from services.sandbox.guest import forms, results
from services.sandbox.guest.interpreter import SOURCES_COUNT_MAX

ROOT = Path(__file__).parents[2]
PNG = b"\x89PNG\r\n"


@dataclass(frozen=True, slots=True)
class Ran:
    stdout: str
    stderr: str
    exit_codes: list[int]
    results: list[Result]
    unparsed: str  # Of an interpreter that ended before it was asked to.

    @property
    def plain(self) -> list[str]:
        return [result["text/plain"].decode() for result in self.results]


def run(*programs: str) -> Ran:
    """Run `programs` in one interpreter."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as told:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.unit.guest_driver", str(writing)],
            cwd=ROOT,
            env={"MPLBACKEND": "Agg", "HOME": os.environ.get("HOME", "/tmp")},
            pass_fds=[writing],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        os.close(writing)
        assert process.stdin is not None
        process.stdin.write(json.dumps(programs).encode())
        process.stdin.close()
        process.stdin = None
        frames = told.read()
        stdout, stderr = process.communicate(timeout=60)
    decoder = Decoder(bytes_max=16 << 20, count_max=100)
    found = decoder.feed(frames)
    decoder.end()
    assert not decoder.truncated
    printed, ended, codes = stdout.decode().rpartition("\n")
    return Ran(printed, stderr.decode(), json.loads(codes if ended else "[]"), found, "" if ended else codes)


@pytest.mark.parametrize(
    ("program", "plain"),
    [
        ("1 + 1", ["2"]),
        ("x = 5\nx", ["5"]),
        ("'text'", ["'text'"]),
        ("x = 5", []),
        ("None", []),
        ("print(1)", []),
        ("1; 2", ["2"]),
        ("2;", []),
        ("'é' ; # no", []),
        ("if True:\n    3", []),
        ("", []),
        ("# nothing", []),
        ("display(1, 'b'); 3", ["1", "'b'", "3"]),
        ("from __future__ import annotations\n(lambda: 0).__name__", ["'<lambda>'"]),
        ("x = " + "+".join("1" * 2000) + "\nx", []),  # So deep that only the source can be compiled.
        ("x = 1\n" + "#" * (1 << 16) + "\nx", []),  # Too large to be looked into.
        ("import os\nif os.fork() == 0: display('child')\nelse: os.wait()\n'parent'", ["'parent'"]),
    ],
)
def test_the_value_of_the_last_expression_is_a_result(program: str, plain: list[str]) -> None:
    ran = run(program)
    assert (ran.plain, ran.exit_codes) == (plain, [0]), ran.stderr


def test_what_is_printed_before_a_result_is_on_its_way_before_it() -> None:
    """Nothing that comes later could send it on here."""
    ran = run("import os\nprint('first', end='')\ndisplay(1)\nos._exit(3)")
    assert (ran.stdout, ran.stderr, ran.plain) == ("", "", ["1"])
    assert ran.unparsed == "first"


def test_an_object_is_told_in_every_form_that_it_has() -> None:
    ran = run(
        "class Rich:\n"
        "    def __repr__(self): return 'plain'\n"
        "    def _repr_html_(self): return '<b>é</b>'\n"
        "    def _repr_png_(self): return b'png'\n"
        "    def _repr_jpeg_(self): return 'anBlZw=='\n"
        "    def _repr_svg_(self): return None\n"
        "    def _repr_latex_(self): raise ValueError\n"
        "    def _repr_markdown_(self): return ('*m*', {'metadata': 1})\n"
        "    def _repr_json_(self): return {'a': [1]}\n"
        "    def _repr_mimebundle_(self, include=None, exclude=None):\n"
        "        return {'application/vnd.x+json': {'b': 2}, 'not a type': 'x', 'text/x': 5, 7: 'x'}, {}\n"
        "Rich()\n"
    )
    assert ran.results == [
        {
            "text/plain": b"plain",
            "text/html": "<b>é</b>".encode(),
            "text/markdown": b"*m*",
            "image/png": b"png",
            "image/jpeg": b"jpeg",
            "application/json": b'{"a": [1]}',
            "application/vnd.x+json": b'{"b": 2}',
            "text/x": b"5",
        }
    ]


def test_an_object_that_answers_to_any_name_offers_nothing() -> None:
    ran = run("from unittest.mock import MagicMock\nMagicMock(name='m')")
    assert [set(result) for result in ran.results] == [{"text/plain"}]


def test_what_is_too_large_is_left_out_and_harms_nothing() -> None:
    ran = run(
        "class Large:\n"
        "    def __repr__(self): return 'é' * 200_000\n"
        "    def _repr_html_(self): return 'x' * (3 << 20)\n"
        "display(Large())\n'after'"
    )
    assert ran.exit_codes == [0]
    assert set(ran.results[0]) == {"text/plain"}
    plain = ran.plain[0]
    assert plain.startswith("é" * 32_000)
    assert plain.endswith("… (cut)")
    assert ran.plain[1] == "'after'"


def test_too_many_forms_are_left_out() -> None:
    told = results.encode({f"text/x{number}": b"" for number in range(40)})
    (found,) = Decoder(bytes_max=1 << 20, count_max=1).feed(told)
    assert len(found) == results.FORM_COUNT_MAX
    assert results.encode({"text/plain": b"x" * (results.FORM_BYTES_MAX + 1)}) == b""


def test_a_repr_that_raises_is_an_error_of_the_program() -> None:
    ran = run("class Bad:\n    def __repr__(self): return 1 / 0\nBad()")
    assert (ran.exit_codes, ran.results) == ([1], [])
    assert "ZeroDivisionError" in ran.stderr


@pytest.mark.parametrize(
    "harm", ["os.closerange(3, 256)", "os.closerange(3, 256); [open('/dev/null') for _ in range(300)]"]
)
def test_a_program_that_closes_its_descriptors_only_loses_its_results(harm: str) -> None:
    ran = run(f"import os\ntry: {harm}\nexcept OSError: pass\ndisplay(1)\nprint('on')")
    assert (ran.stdout, ran.results, ran.exit_codes) == ("on\n", [], [0])


def test_tracebacks_show_the_program_and_nothing_of_ours() -> None:
    ran = run("def f():\n    1 / 0\nf()")
    assert ran.exit_codes == [1]
    assert ran.stderr.startswith(
        'Traceback (most recent call last):\n  File "main.py", line 3, in <module>\n'
    )
    assert "guest" not in ran.stderr
    assert run("x = 1\n1 / 0").stderr.splitlines()[1:3] == [
        '  File "main.py", line 2, in <module>',
        "    1 / 0",
    ]


def test_programs_of_one_interpreter_share_variables_and_not_their_ends() -> None:
    ran = run("import sys\nx = 1\nsys.exit(3)", "def f():\n    raise ValueError(x)", "f()", "x + 1")
    assert (ran.exit_codes, ran.plain) == ([3, 0, 1, 0], ["2"])
    assert 'File "main-3.py", line 1, in <module>' in ran.stderr
    assert 'File "main-2.py", line 2, in f\n    raise ValueError(x)' in ran.stderr


def test_the_sources_of_long_ago_are_forgotten() -> None:
    ran = run(
        *["x = 1"] * (SOURCES_COUNT_MAX + 5),
        "import linecache; len([n for n in linecache.cache if n.startswith('main')])",
    )
    assert ran.plain == [str(SOURCES_COUNT_MAX)]


def test_an_interruption_is_an_exception_that_can_be_handled() -> None:
    act = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nwhile True: pass"
    assert run(act).exit_codes == [130]
    handled = f"try:\n    exec({act!r})\nexcept KeyboardInterrupt: print('handled')"
    ran = run(handled)
    assert (ran.stdout, ran.exit_codes) == ("handled\n", [0])


def test_figures_are_shown_when_asked_and_at_the_end() -> None:
    ran = run(
        "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()\nplt.figure()\nplt.plot([2, 1]);",
        "plt.get_fignums()",
        "figure = plt.figure()\ndisplay(figure)",
        "plt.figure()\n1 / 0",
    )
    assert ran.stderr.count("main-4.py") == 1
    assert "Warning" not in ran.stderr
    assert ran.exit_codes == [0, 0, 0, 1]
    images = [result.get("image/png", b"")[: len(PNG)] for result in ran.results]
    assert images == [PNG, PNG, b"", PNG, PNG]
    assert ran.plain[2] == "[]"


def test_figures_of_a_matplotlib_that_is_there_before_are_shown_too() -> None:
    before = run("import matplotlib.pyplot", "from pylab import *\nplot([1])\nshow()")
    assert [set(result) for result in before.results] == [{"text/plain", "image/png"}]


def test_a_figure_that_cannot_be_drawn_is_an_error_of_the_program() -> None:
    ran = run("import matplotlib.pyplot as plt\nplt.title(r'$\\nonsense{$')")
    assert ran.exit_codes == [1]
    assert "ValueError" in ran.stderr


def test_forms_are_bytes_whatever_is_offered() -> None:
    assert forms.of("\ud800") == {"text/plain": b"'\\ud800'"}
