"""How a drill ends: a table for people, a line of JSON for scripts, and an exit status."""

import json
import sys
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    name: str
    value: float
    unit: str = ""
    goal: str = ""
    holds: bool = True


def report(drill: str, findings: list[Finding]) -> int:
    """The exit status: 0 if all of it holds."""
    width = max(len(one.name) for one in findings)
    for one in findings:
        value = f"{one.value:,.0f}" if float(one.value).is_integer() else f"{one.value:,.2f}"
        goal = f"  {one.goal:<14} {'holds' if one.holds else 'DOES NOT HOLD'}" if one.goal else ""
        sys.stdout.write(f"{one.name:<{width}}  {value:>12} {one.unit:<6}{goal}".rstrip() + "\n")
    holds = all(one.holds for one in findings)
    told = {"name": drill, "holds": holds, "figures": [asdict(one) for one in findings]}
    sys.stdout.write(json.dumps(told) + "\n")
    return 0 if holds else 1
