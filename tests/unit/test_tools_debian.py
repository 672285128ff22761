"""Programs from Debian's packages: what comes to its place is whole, and what cannot be had is said."""

from pathlib import Path

import pytest

from tools import debian, prometheus

STARTS = "#!/bin/sh\nexit 0\n"


def _script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


class _Unpacked:
    """What apt and dpkg would have left."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def update(self) -> None:
        pass

    def unpack(self, package: str, version_min: str) -> Path:
        assert version_min == "0"
        return self._folder / package


@pytest.fixture(autouse=True)
def _machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "bin"
    for name in ("apt-get", "apt-cache", "dpkg"):
        _script(programs / name, STARTS)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(debian, "_Apt", lambda _: _Unpacked(tmp_path / "packages"))


def test_programs_come_to_their_places(tmp_path: Path) -> None:
    _script(tmp_path / "packages/one/usr/bin/long-name", STARTS)
    place = tmp_path / "tools/short"
    debian.obtain({place: debian.Program("one", "usr/bin/long-name")})
    assert place.read_text() == STARTS
    assert [path.name for path in place.parent.iterdir()] == ["short"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "#!/bin/sh\necho 'x: error while loading shared libraries: libx.so.9: cannot open' >&2\nexit 127\n",
            "Debian's short needs the library libx.so.9, which this machine lacks",
        ),
        ("#!/bin/sh\nexit 3\n", "Debian's short does not start on this machine"),
    ],
)
def test_a_program_that_does_not_start_leaves_nothing(tmp_path: Path, text: str, said: str) -> None:
    _script(tmp_path / "packages/one/usr/bin/long-name", text)
    place = tmp_path / "tools/short"
    with pytest.raises(debian.Unobtainable, match=said):
        debian.obtain({place: debian.Program("one", "usr/bin/long-name")})
    assert list(place.parent.iterdir()) == []


def test_a_package_without_the_program_leaves_what_was_there(tmp_path: Path) -> None:
    place = _script(tmp_path / "tools/short", STARTS)
    with pytest.raises(debian.Unobtainable, match="cannot get one"):
        debian.obtain({place: debian.Program("one", "usr/bin/long-name")})
    assert [path.name for path in place.parent.iterdir()] == ["short"]


def test_a_machine_without_apt_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(debian.Unobtainable, match="no Debian packages"):
        debian.obtain({tmp_path / "short": debian.Program("one", "usr/bin/long-name")})


def test_a_folder_that_is_named_comes_first_and_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(prometheus.VARIABLE, str(tmp_path))
    assert prometheus.folder() == tmp_path
    for name in prometheus.PROGRAMS:
        if name != "amtool":
            _script(tmp_path / name, STARTS)
    assert prometheus.missing(tmp_path) == ["amtool"]
    with pytest.raises(SystemExit, match="lacks amtool"):
        prometheus.main()
    _script(tmp_path / "amtool", STARTS)
    prometheus.main()


def test_no_package_manager_means_a_sentence_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(prometheus.VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(prometheus, "FETCHED", tmp_path / "prometheus")
    with pytest.raises(SystemExit, match=f"no Debian packages.*as their authors say.*{prometheus.VARIABLE}"):
        prometheus.main()
