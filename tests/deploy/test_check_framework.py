"""`make deploy-check` finds its subjects, tells each outcome, and fails when it should."""

import importlib
import sys
from pathlib import Path

import pytest

from deploy.check import tools
from deploy.check.__main__ import main
from deploy.check.outcome import Skipped
from deploy.check.subjects import looked_at, subjects


def _fine() -> list[str]:
    return []


def _wrong() -> list[str]:
    return ["a.yaml: this is wrong.", "b.yaml: and this."]


def _skipped() -> list[str]:
    raise Skipped("there is no hadolint")


def _broken() -> list[str]:
    raise ValueError("no such file")


def test_subjects_are_the_modules_with_a_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "checks_found"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "charts.py").write_text("def check():\n    return ['x']\n")
    (folder / "helper.py").write_text("def help():\n    return []\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    found = subjects(folder, "checks_found")
    assert {name: check() for name, check in found.items()} == {"charts": ["x"]}
    for name in [name for name in sys.modules if name.startswith("checks_found")]:
        del sys.modules[name]


def test_problems_are_told_and_fail_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], {"good": _fine, "bad": _wrong}) == 1
    told = capsys.readouterr().out
    assert "2 problems" in told
    assert "  - b.yaml: and this." in told
    assert "1 of 2 subjects failed" in told


def test_one_subject_that_breaks_does_not_hide_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], {"broken": _broken, "good": _fine}) == 1
    told = capsys.readouterr().out
    assert "The check itself failed: ValueError: no such file" in told
    assert told.count(" s  ok") == 1


def test_what_is_skipped_fails_only_a_strict_run(capsys: pytest.CaptureFixture[str]) -> None:
    checks = {"images": _skipped, "good": _fine}
    assert main([], checks) == 0
    assert "skipped: there is no hadolint" in capsys.readouterr().out
    assert main(["--strict"], checks) == 1


def test_only_what_is_named_is_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["good"], {"good": _fine, "bad": _wrong}) == 0
    with pytest.raises(SystemExit) as refused:
        main(["worse"], {"good": _fine})
    assert refused.value.code == 2
    assert "there is no worse" in capsys.readouterr().err


def test_a_tool_that_is_not_there_says_how_to_get_it() -> None:
    outcome = looked_at("x", lambda: [str(tools.tool("no-such-tool"))])
    assert outcome.skipped == "no-such-tool is not in .tools/deploy; run `make deploy-tools`"


def test_version_files_of_the_schema_are_a_subject(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new one that breaks old code fails deploy-check: here each is judged as if it were new."""
    judge = subjects()["migrations"]
    assert judge() == []
    monkeypatch.setattr(
        "deploy.migrations.check.BASELINE", dict.fromkeys(("auth", "agent", "inference"), "0001")
    )
    assert judge()
