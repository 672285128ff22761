"""A cgroup that cannot be made leaves nothing, though its making is tried again and again."""

from pathlib import Path

import pytest

from services.sandbox.adapters.ns import cgroups
from services.sandbox.adapters.ns.cgroups import Cgroup, Home
from services.sandbox.core.limits import Limits


def test_no_folder_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "_settings", lambda *_: [("not/there", "1")])
    with pytest.raises(OSError, match="not/there"):
        Cgroup("jail-1", (Home("pids", 1, tmp_path),), Limits())
    with pytest.raises(OSError, match="not/there"):
        cgroups._make_home("pids", 1, tmp_path / "home")
    assert list(tmp_path.iterdir()) == []


def test_no_descriptor_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "_settings", lambda *_: [])
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError, match="oom_control"):
        Cgroup("jail-1", (Home("memory", 1, tmp_path),), Limits())
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert list(tmp_path.iterdir()) == []
