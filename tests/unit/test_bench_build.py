"""The measuring tools are built from whatever compiles, and by nothing if nothing does."""

from pathlib import Path

import pytest

from tests.bench.tools import build


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(build, "RESULTS", tmp_path)
    return tmp_path


@pytest.mark.usefixtures("results")
def test_without_any_compiler_there_is_no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "of_the_machine", lambda: None)
    monkeypatch.setattr(build, "zig", lambda: None)
    assert build.program("load") is None


def test_a_broken_compiler_gives_way_to_zig(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    working = results / "compiler"
    # Its last arguments are `-o OUTPUT SOURCES... -lm`, after the flags and one include folder.
    working.write_text('#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\necho built > "$2"\n')
    working.chmod(0o755)
    monkeypatch.setattr(build, "of_the_machine", lambda: ("false",))
    monkeypatch.setattr(build, "zig", lambda: (str(working),))
    program = build.program("stub")
    assert program is not None
    assert program.read_text() == "built\n"
    monkeypatch.setattr(build, "zig", lambda: None)
    assert build.program("stub") == program, "what is built is built once"


@pytest.mark.usefixtures("results")
def test_if_nothing_compiles_it_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "of_the_machine", lambda: ("cat", "--no-such-option"))
    monkeypatch.setattr(build, "zig", lambda: None)
    with pytest.raises(build.BuildError, match="option"):
        build.program("load")


def test_every_source_belongs_to_a_program() -> None:
    used = {f"{part}.c" for parts in build.PROGRAMS.values() for part in parts}
    assert used == {path.name for path in build.SOURCES.glob("*.c")}
