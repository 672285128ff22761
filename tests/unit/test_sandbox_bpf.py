"""The filters, run by an interpreter of BPF that is written from its manual, and by the kernel itself."""

import errno
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.sandbox.adapters.ns.inside import filters
from services.sandbox.adapters.ns.inside.bpf import (
    ALLOW,
    AUDIT_ARCH,
    KILL_PROCESS,
    ArgumentIn,
    Rule,
    assemble,
    refuse,
)
from services.sandbox.adapters.ns.inside.syscalls import numbers

EPERM, ENOSYS = refuse(errno.EPERM), refuse(errno.ENOSYS)
MACHINES = ("x86_64", "aarch64")
I386_ARCH = 0x4000_0003
X32_BIT = 0x4000_0000


def interpret(program: bytes, number: int, arguments: tuple[int, ...] = (), *, arch: int) -> int:
    """What the kernel would answer to a call."""
    data = struct.pack("<IIQ6Q", number, arch, 0, *arguments, *(0,) * (6 - len(arguments)))
    steps = list(struct.iter_unpack("<HBBI", program))
    accumulator, at = 0, 0
    while True:
        code, if_true, if_false, operand = steps[at]
        at += 1
        match code:
            case 0x20:  # LD | W | ABS
                (accumulator,) = struct.unpack_from("<I", data, operand)
            case 0x54:  # ALU | AND | K
                accumulator &= operand
            case 0x05:  # JMP | JA
                at += operand
            case 0x15:  # JMP | JEQ | K
                at += if_true if accumulator == operand else if_false
            case 0x35:  # JMP | JGE | K
                at += if_true if accumulator >= operand else if_false
            case 0x06:  # RET | K
                return int(operand)
            case _:
                pytest.fail(f"step {at - 1} has the unknown code {code:#x}")


VERDICTS = st.sampled_from([ALLOW, EPERM, ENOSYS])
WORDS = st.integers(0, 2**32 - 1)
CHECKS = st.builds(
    ArgumentIn,
    index=st.integers(0, 5),
    values=st.lists(WORDS, max_size=4).map(tuple),
    matched=VERDICTS,
    otherwise=VERDICTS,
    mask=WORDS,
)
RULES = st.dictionaries(st.integers(0, 460), VERDICTS | CHECKS, min_size=1)


def expected(rules: dict[int, Rule], number: int, arguments: tuple[int, ...]) -> int:
    rule = rules.get(number, EPERM if number < max(rules) else ENOSYS)
    if isinstance(rule, int):
        return rule
    masked = arguments[rule.index] & 0xFFFF_FFFF & rule.mask
    return rule.matched if masked in rule.values else rule.otherwise


@settings(deadline=None)  # A busy machine is no failure.
@given(
    rules=RULES,
    number=st.integers(0, 470) | WORDS,
    arguments=st.tuples(*[st.integers(0, 2**64 - 1)] * 6),
    machine=st.sampled_from(MACHINES),
)
def test_an_assembled_filter_decides_as_its_rules_say(
    rules: dict[int, Rule], number: int, arguments: tuple[int, ...], machine: str
) -> None:
    program = assemble(machine, rules, default=EPERM, newer=ENOSYS)
    verdict = interpret(program, number, arguments, arch=AUDIT_ARCH[machine])
    assert verdict == expected(rules, number, arguments)


@settings(deadline=None)  # A busy machine is no failure.
@given(values=st.lists(WORDS, min_size=1, max_size=4).map(tuple), high=WORDS, chosen=st.data())
def test_an_argument_matches_by_its_low_half(
    values: tuple[int, ...], high: int, chosen: st.DataObject
) -> None:
    rules: dict[int, Rule] = {7: ArgumentIn(2, values, ALLOW, EPERM)}
    value = chosen.draw(st.sampled_from(values))
    program = assemble("x86_64", rules, default=EPERM, newer=ENOSYS)
    assert interpret(program, 7, (0, 0, high << 32 | value), arch=AUDIT_ARCH["x86_64"]) == ALLOW


@pytest.mark.parametrize("machine", MACHINES)
class TestTheFiltersOfAJail:
    def decide(self, machine: str, name: str, *arguments: int) -> tuple[int, int]:
        """What the zygote's filter says, and what the child's adds."""
        number, arch = numbers(machine)[name], AUDIT_ARCH[machine]
        stages = filters.zygote(machine), filters.child(machine)
        first, second = (interpret(stage, number, arguments, arch=arch) for stage in stages)
        return first, second

    def test_fits_into_what_the_kernel_takes(self, machine: str) -> None:
        for program in (filters.zygote(machine), filters.child(machine)):
            assert len(program) % 8 == 0
            assert len(program) // 8 <= 4096

    def test_another_machine_s_convention_kills(self, machine: str) -> None:
        for program in (filters.zygote(machine), filters.child(machine)):
            assert interpret(program, 1, arch=I386_ARCH) == KILL_PROCESS

    def test_x32_calls_do_not_exist(self, machine: str) -> None:
        program = filters.zygote(machine)
        assert interpret(program, X32_BIT | 1, arch=AUDIT_ARCH[machine]) == ENOSYS

    @pytest.mark.parametrize("name", ["read", "openat", "mmap", "execve", "futex", "wait4", "getrandom"])
    def test_what_programs_need_is_left(self, machine: str, name: str) -> None:
        assert self.decide(machine, name) == (ALLOW, ALLOW)

    @pytest.mark.parametrize("name", ["mount", "unshare", "pivot_root", "seccomp", "capset"])
    def test_what_builds_jails_is_taken_from_children_alone(self, machine: str, name: str) -> None:
        assert self.decide(machine, name) == (ALLOW, EPERM)

    @pytest.mark.parametrize(
        ("family", "verdict"), [(1, ALLOW), (2, EPERM), (10, EPERM), (16, EPERM), (40, EPERM)]
    )
    def test_only_unix_sockets(self, machine: str, family: int, verdict: int) -> None:
        assert self.decide(machine, "socket", family)[0] == verdict
        assert self.decide(machine, "socketpair", family)[0] == verdict

    @pytest.mark.parametrize("flag", [1 << bit for bit in (17, 25, 26, 27, 28, 29, 30)])
    def test_no_child_makes_namespaces(self, machine: str, flag: int) -> None:
        assert self.decide(machine, "clone", flag | 17) == (ALLOW, EPERM)
        assert self.decide(machine, "clone", 0x0120_0000 | 17) == (ALLOW, ALLOW)
        assert self.decide(machine, "clone3") == (ENOSYS, ALLOW)

    def test_no_child_hides_from_the_meter(self, machine: str) -> None:
        set_dumpable, set_name = 4, 15
        assert self.decide(machine, "prctl", set_dumpable)[1] == EPERM
        assert self.decide(machine, "prctl", set_name)[1] == ALLOW

    @pytest.mark.parametrize("command", [1024, 1025, 1026])  # SETLEASE, GETLEASE, NOTIFY.
    def test_nobody_is_told_of_accesses_by_others(self, machine: str, command: int) -> None:
        get_flags = 3
        assert self.decide(machine, "fcntl", 0, command)[0] == EPERM
        assert self.decide(machine, "fcntl", 0, get_flags) == (ALLOW, ALLOW)

    def test_no_page_is_merged_with_others(self, machine: str) -> None:
        mergeable, dont_need = 12, 4
        assert self.decide(machine, "madvise", 0, 4096, mergeable)[0] == refuse(errno.EINVAL)
        assert self.decide(machine, "madvise", 0, 4096, dont_need) == (ALLOW, ALLOW)

    def test_no_child_has_its_core_dumped(self, machine: str) -> None:
        core, files = 4, 7
        assert self.decide(machine, "setrlimit", core) == (ALLOW, EPERM)
        assert self.decide(machine, "prlimit64", 0, core) == (ALLOW, EPERM)
        assert self.decide(machine, "setrlimit", files) == (ALLOW, ALLOW)
        assert self.decide(machine, "prlimit64", 0, files) == (ALLOW, ALLOW)

    @pytest.mark.parametrize("name", ["setresuid", "setresgid"])
    def test_who_has_its_uid_keeps_it(self, machine: str, name: str) -> None:
        assert self.decide(machine, name) == (ALLOW, EPERM)

    def test_only_harmless_ioctls(self, machine: str) -> None:
        tiocsti = 0x5412  # Types into a terminal.
        assert self.decide(machine, "ioctl", 1, tiocsti)[0] == refuse(errno.ENOTTY)
        assert self.decide(machine, "ioctl", 1, 0x541B)[0] == ALLOW

    def test_what_has_no_rule_is_refused(self, machine: str) -> None:
        # bpf, userfaultfd, perf_event_open, memfd_create, ptrace, keyctl, io_uring_setup, setuid.
        unruled = {
            "x86_64": (321, 323, 298, 319, 101, 250, 425, 105),
            "aarch64": (280, 282, 241, 279, 117, 219, 425, 146),
        }
        program = filters.zygote(machine)
        for number in unruled[machine]:
            assert interpret(program, number, arch=AUDIT_ARCH[machine]) == EPERM, number


HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


@pytest.mark.parametrize("machine", MACHINES)
def test_the_numbers_are_the_kernel_s(machine: str) -> None:
    if not HEADERS[machine].exists():
        pytest.skip("this machine has no kernel headers")
    pattern = r"#define __NR(?:3264)?_(\w+)\s+(\d+)"
    told = {name: int(number) for name, number in re.findall(pattern, HEADERS[machine].read_text())}
    aliases = {"newfstatat": "fstatat"} if machine == "aarch64" else {}
    for name, number in numbers(machine).items():
        assert told[aliases.get(name, name)] == number, name


ENFORCED = """
import ctypes, os, socket, subprocess, sys, threading
from services.sandbox.adapters.ns.inside import filters, kernel

kernel.no_new_privileges()
for build in (filters.zygote, filters.child):
    kernel.install_filter(build(os.uname().machine))

def outcome(act):
    try:
        act()
    except OSError as error:
        return error.errno
    return 0

thread = threading.Thread(target=lambda: None)
thread.start()
thread.join()
unix = socket.socketpair()
print(subprocess.run([sys.executable, "-I", "-S", "-c", ""]).returncode)
print(outcome(lambda: socket.socket(socket.AF_INET)))
print(outcome(lambda: kernel.unshare(kernel.CLONE_NEWUSER)))
print(outcome(lambda: kernel.mount("tmpfs", "/mnt", 0)))
print(outcome(lambda: os.memfd_create("x")))
print(outcome(lambda: os.setuid(os.getuid())))
print(outcome(lambda: kernel.clone(kernel.CLONE_NEWUSER)))
"""


def test_the_kernel_enforces_them() -> None:
    run = subprocess.run(
        [sys.executable, "-c", ENFORCED], check=False, capture_output=True, text=True, timeout=60
    )
    assert run.stderr == ""
    assert run.stdout.split() == ["0", *[str(errno.EPERM)] * 6]


def test_a_machine_that_we_do_not_know_is_refused() -> None:
    with pytest.raises(KeyError):
        numbers("riscv64")
