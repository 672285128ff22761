"""What the engine learns about the machine: its cgroups, and why it may refuse jails."""

import os
from pathlib import Path

import pytest

from services.sandbox.adapters.ns import cgroups
from services.sandbox.adapters.ns.explain import kernel_problem, root_problem
from services.sandbox.adapters.ns.inside.order import Born, Ended, Failed, Order, Ready, Reaped, pack, unpack
from services.sandbox.core.limits import Limits

LIMITS = Limits(memory_bytes=64 << 20, process_count=5)


class Machine:
    """A machine's cgroup file systems, as plain folders. Files of a new cgroup appear when asked for."""

    def __init__(self, folder: Path, *, own: str, mounts: list[tuple[str, str, str]]) -> None:
        self.proc = folder / "proc"
        self.proc.mkdir()
        (self.proc / "cgroup").write_text(own)
        lines = [
            f"{number} 1 0:1 {root} {folder}{point} rw - {kind} {kind} {options}"
            for number, (kind, point, options) in enumerate(mounts)
            for root in ["/"]
        ]
        (self.proc / "mountinfo").write_text("\n".join(lines) + "\n")


@pytest.fixture
def plain_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain folders keep their files, where a cgroup's vanish with it."""

    def remove(folder: Path, _deadline_s: float) -> None:
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        if folder.exists():
            folder.rmdir()

    monkeypatch.setattr(cgroups, "_remove", remove)
    monkeypatch.setattr(cgroups, "_oom_event", lambda _folder: None)


@pytest.mark.usefixtures("plain_folders")
class TestCgroups:
    def test_the_first_generation_has_a_folder_for_each_controller(self, tmp_path: Path) -> None:
        mounts = [("cgroup", f"/{name}", f"rw,{name}") for name in ("memory", "pids")]
        machine = Machine(tmp_path, own="4:memory:/here\n8:pids:/\n0::/\n", mounts=mounts)
        (tmp_path / "memory/here").mkdir(parents=True)
        (tmp_path / "pids").mkdir()
        found = cgroups.find(machine.proc)
        assert found.controllers == {"memory", "pids"}
        found.make(1, LIMITS)
        (memory,) = (tmp_path / "memory/here").glob("*/jail-1")
        (pids,) = (tmp_path / "pids").glob("*/jail-1")
        assert (memory / "memory.limit_in_bytes").read_text() == str(64 << 20)
        assert (pids / "pids.max").read_text() == "6"
        found.close()
        assert not list((tmp_path / "memory/here").iterdir())

    def test_the_second_generation_wants_a_parent_that_delegates(self, tmp_path: Path) -> None:
        machine = Machine(tmp_path, own="0::/user/app\n", mounts=[("cgroup2", "/cg", "rw")])
        own = tmp_path / "cg/user/app"
        own.mkdir(parents=True)
        (own / "cgroup.subtree_control").write_text("")
        (own.parent / "cgroup.subtree_control").write_text("memory pids\n")
        found = cgroups.find(machine.proc)
        assert found.controllers == {"memory", "pids"}
        found.make(1, LIMITS)
        (jail,) = own.parent.glob("*/jail-1")
        assert (jail / "memory.max").read_text() == str(64 << 20)
        assert (jail / "memory.oom.group").read_text() == "1"
        assert (jail / "pids.max").read_text() == "6"
        assert (own.parent / "cgroup.subtree_control").read_text() == "memory pids\n"

    def test_a_machine_that_delegates_nothing_has_none(self, tmp_path: Path) -> None:
        machine = Machine(tmp_path, own="0::/app\n", mounts=[("cgroup2", "/cg", "rw")])
        (tmp_path / "cg/app").mkdir(parents=True)
        assert cgroups.find(machine.proc).controllers == frozenset()

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_folders_that_are_not_ours_to_write_are_no_home(self, tmp_path: Path) -> None:
        machine = Machine(tmp_path, own="4:memory:/\n", mounts=[("cgroup", "/memory", "rw,memory")])
        (tmp_path / "memory").mkdir(mode=0o555)
        assert cgroups.find(machine.proc).controllers == frozenset()

    def test_what_dead_processes_left_is_swept(self, tmp_path: Path) -> None:
        machine = Machine(tmp_path, own="4:memory:/\n", mounts=[("cgroup", "/memory", "rw,memory")])
        left = tmp_path / f"memory/{cgroups.PREFIX}{2**22 + 1}-0/jail-7"
        kept = tmp_path / f"memory/{cgroups.PREFIX}{os.getppid()}-0/jail-7"
        left.mkdir(parents=True)
        kept.mkdir(parents=True)
        cgroups.find(machine.proc)
        assert not left.parent.exists()
        assert kept.exists()

    def test_a_kill_for_memory_is_seen(self, tmp_path: Path) -> None:
        machine = Machine(tmp_path, own="4:memory:/\n", mounts=[("cgroup", "/memory", "rw,memory")])
        (tmp_path / "memory").mkdir()
        cgroup = cgroups.find(machine.proc).make(1, LIMITS)
        (folder,) = (tmp_path / "memory").glob("*/jail-1")
        control = folder / "memory.oom_control"
        control.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 0\n")
        assert not cgroup.memory_exceeded()
        control.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
        assert cgroup.memory_exceeded()


class TestExplanations:
    def test_a_missing_root_names_the_command_that_makes_it(self, tmp_path: Path) -> None:
        assert f"services.sandbox.rootfs --into {tmp_path.parent} {tmp_path.name}" in str(
            root_problem(tmp_path)
        )
        (tmp_path / "stamp").write_text("")
        assert root_problem(tmp_path) is None

    @pytest.mark.parametrize(
        ("setting", "value"),
        [
            ("kernel/unprivileged_userns_clone", "0"),
            ("kernel/apparmor_restrict_unprivileged_userns", "1"),
            ("user/max_user_namespaces", "0"),
        ],
    )
    def test_a_forbidding_setting_is_named_with_its_mend(
        self, tmp_path: Path, setting: str, value: str
    ) -> None:
        file = tmp_path / "sys" / setting
        file.parent.mkdir(parents=True)
        file.write_text(value + "\n")
        assert f"sysctl {setting.replace('/', '.')}=" in kernel_problem(tmp_path)

    def test_a_masked_proc_is_recognised(self, tmp_path: Path) -> None:
        (tmp_path / "self").mkdir()
        mountinfo = tmp_path / "self/mountinfo"
        mountinfo.write_text("1 0 0:1 / /proc rw - proc proc rw\n2 1 0:2 / /proc/kcore ro - tmpfs tmpfs ro\n")
        assert "masked" in kernel_problem(tmp_path)
        mountinfo.write_text("1 0 0:1 / /proc rw - proc proc rw\n")
        assert "masked" not in kernel_problem(tmp_path)


@pytest.mark.parametrize(
    "message",
    [
        Order(1, 64, 1 << 20, None, 0.5),
        Born(7),
        Reaped(7, 0.25, 4096),
        Ready(),
        Failed("why"),
        Ended(-9, "memory", 0.5, 12, files_full=False),
    ],
)
def test_messages_arrive_as_they_were_sent(message: Order) -> None:
    assert unpack(pack(message)) == message


@pytest.mark.parametrize(
    "packet", [b"", b"{}", b"[1, 2]", b'["Order", {}]', b'["System", {}]', b"\xff", b"[]"]
)
def test_what_is_no_message_is_refused(packet: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        unpack(packet)
