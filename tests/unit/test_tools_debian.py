"""Programs from Debian's packages: what comes to its place is whole, and what cannot be had is said."""

from collections.abc import Iterable, Mapping
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
        self.root = folder
        self.asked: list[str] = []

    def update(self) -> None:
        pass

    def unpack(self, needed: Mapping[str, str], *, wished: Iterable[str]) -> None:
        assert set(needed.values()) == {""}
        self.asked.extend((*needed, *wished))


@pytest.fixture(autouse=True)
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Unpacked:
    unpacked = _Unpacked(tmp_path / "packages")
    programs = tmp_path / "bin"
    for name in ("apt-get", "apt-cache", "dpkg"):
        _script(programs / name, STARTS)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(debian, "_Apt", lambda _: unpacked)
    return unpacked


def test_programs_come_to_their_places(tmp_path: Path) -> None:
    _script(tmp_path / "packages/usr/bin/long-name", STARTS)
    place = tmp_path / "tools/short"
    debian.obtain({place: debian.Program("one", "usr/bin/long-name")})
    assert place.read_text() == STARTS
    assert [path.name for path in place.parent.iterdir()] == ["short"]


def test_data_come_with_what_they_link_to_and_a_path_is_moved(tmp_path: Path, apt: _Unpacked) -> None:
    pages, scripts = tmp_path / "packages/share/web", tmp_path / "packages/share/javascript"
    for folder in (pages, scripts):
        folder.mkdir(parents=True)
    (scripts / "jquery.js").write_text("$")
    (pages / "jquery").symlink_to("../javascript")
    (pages / "gone").symlink_to("../nowhere")
    (tmp_path / "secret").write_text("not of any package")
    (pages / "gone-too").symlink_to(tmp_path / "secret")
    _script(tmp_path / "packages/bin/one", "#!/bin/sh\n# reads /home/share\nexit 0\n")
    debian.obtain(
        {
            tmp_path / "tools/web": debian.Program("one", "share/web", is_data=True, needs=("libjs-jquery",)),
            tmp_path / "tools/one": debian.Program("one", "bin/one", edit=(b"/home/share", b"./././share")),
        }
    )
    assert apt.asked == ["one", "libjs-jquery"]
    debian.obtain({tmp_path / "tools/more": debian.Program("one", "share/no-more", is_data=True)})
    assert (tmp_path / "tools/web/jquery/jquery.js").read_text() == "$"
    assert "reads ./././share" in (tmp_path / "tools/one").read_text()
    assert not list((tmp_path / "tools").rglob("gone*"))


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
    _script(tmp_path / "packages/usr/bin/long-name", text)
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
