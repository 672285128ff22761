"""How much memory there is: the least that anything above this process allows."""

from pathlib import Path

import pytest

from services.sandbox.machine import memory_bytes

GIB = 1 << 30


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """One with 8 GiB, and no cgroups."""
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal:  {8 * GIB >> 10} kB\nMemFree: 1 kB\n")
    (proc / "self" / "cgroup").write_text("")
    return tmp_path


def found(machine: Path) -> int:
    return memory_bytes(machine / "proc", machine / "cgroups")


def allow(machine: Path, folder: str, file: str, value: str) -> None:
    path = machine / "cgroups" / folder
    path.mkdir(parents=True, exist_ok=True)
    (path / file).write_text(f"{value}\n")


def belongs(machine: Path, line: str) -> None:
    (machine / "proc" / "self" / "cgroup").write_text(f"12:devices:/\n{line}\n")


def test_without_cgroups_it_is_the_machines(machine: Path) -> None:
    assert found(machine) == 8 * GIB


def test_any_group_above_counts(machine: Path) -> None:
    belongs(machine, "0::/a/b")
    allow(machine, "a/b", "memory.max", "max")
    allow(machine, "a", "memory.max", str(GIB))
    assert found(machine) == GIB


def test_the_first_generation_counts_too(machine: Path) -> None:
    belongs(machine, "4:memory,hugetlb:/a")
    allow(machine, "memory/a", "memory.limit_in_bytes", str(2 * GIB))
    allow(machine, "memory", "memory.limit_in_bytes", str(0x7FFFFFFFFFFFF000))
    assert found(machine) == 2 * GIB


def test_a_path_that_is_not_seen_from_here_is_passed_over(machine: Path) -> None:
    belongs(machine, "0::/../elsewhere")
    allow(machine, ".", "memory.max", str(GIB))
    assert found(machine) == GIB
