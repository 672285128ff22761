"""Assembles seccomp filters: classic BPF, as seccomp(2) takes it.

The kernel runs the filter on every system call. Ours is a list of intervals of call numbers in rising
order, each with one verdict, so that no jump is longer than BPF's 8 bits allow, however many calls
there are. A call whose arguments matter jumps (32 bits) to a block behind the list.

Arguments are compared by their low 32 bits. That is exact for every call in `filters`: the kernel itself
takes those arguments as `int` or `unsigned int` and ignores the rest.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby

ALLOW = 0x7FFF_0000
KILL_PROCESS = 0x8000_0000

AUDIT_ARCH = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}

# struct seccomp_data: int nr; __u32 arch; __u64 instruction_pointer; __u64 args[6]. Little-endian.
_NR_OFFSET, _ARCH_OFFSET, _ARGS_OFFSET, _ARG_BYTES = 0, 4, 16, 8

_LOAD, _AND, _GO, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x20, 0x54, 0x05, 0x15, 0x35, 0x06


def refuse(errno: int) -> int:
    """The verdict that makes a call fail with `errno`."""
    return 0x0005_0000 | errno


@dataclass(frozen=True, slots=True)
class ArgumentIn:
    """`matched` if argument number `index`, masked, is one of `values`; else `otherwise`."""

    index: int
    values: tuple[int, ...]
    matched: int
    otherwise: int
    mask: int = 0xFFFF_FFFF


Rule = int | ArgumentIn


@dataclass(frozen=True, slots=True)
class _Interval:
    end: int  # The first number that is not in it.
    rule: Rule


def assemble(machine: str, rules: Mapping[int, Rule], *, default: int, newer: int) -> bytes:
    """Return the filter's bytes: struct sock_filter[].

    Args:
        machine: as os.uname() names it; a call made in another machine's convention kills the process.
        rules: by call number.
        default: the verdict for numbers without a rule.
        newer: the verdict for numbers above all rules: calls that this table may not know yet.

    """
    intervals = _intervals(rules, default)
    checks = [interval.rule for interval in intervals if isinstance(interval.rule, ArgumentIn)]
    blocks = [_block(check) for check in checks]
    head = [
        _step(_LOAD, _ARCH_OFFSET),
        _step(_IF_EQUAL, AUDIT_ARCH[machine], if_true=1),
        _step(_RETURN, KILL_PROCESS),
        _step(_LOAD, _NR_OFFSET),
    ]
    steps: list[bytes] = []
    block_at = 2 * len(intervals) + 1  # Each interval takes two steps, and `newer` the last one.
    remaining = iter(blocks)
    for interval in intervals:
        steps.append(_step(_IF_AT_LEAST, interval.end, if_true=1))
        if isinstance(interval.rule, ArgumentIn):
            steps.append(_step(_GO, block_at - len(steps) - 1))
            block_at += len(next(remaining))
        else:
            steps.append(_step(_RETURN, interval.rule))
    steps.append(_step(_RETURN, newer))
    return b"".join([*head, *steps, *(step for block in blocks for step in block)])


def _intervals(rules: Mapping[int, Rule], default: int) -> list[_Interval]:
    numbers = range(max(rules, default=-1) + 1)
    runs = groupby(numbers, key=lambda number: rules.get(number, default))
    return [_Interval(max(run) + 1, rule) for rule, run in runs]


def _block(check: ArgumentIn) -> list[bytes]:
    steps = [_step(_LOAD, _ARGS_OFFSET + _ARG_BYTES * check.index), _step(_AND, check.mask)]
    for value in check.values:
        steps += [_step(_IF_EQUAL, value, if_false=1), _step(_RETURN, check.matched)]
    return [*steps, _step(_RETURN, check.otherwise)]


def _step(code: int, operand: int, *, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, operand)
