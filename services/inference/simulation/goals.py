"""How many instances it takes: what is to be reached, and whether it was."""

from collections.abc import Callable, Mapping

from services.inference.simulation.fields import Malformed
from services.inference.simulation.report import Report, aligned

FIGURES: Mapping[str, Callable[[Report], float]] = {
    "p50_s": lambda one: one.total.p50_s,
    "p95_s": lambda one: one.total.p95_s,
    "p99_s": lambda one: one.total.p99_s,
    "wait_p95_s": lambda one: one.wait.p95_s,
    "first_token_p95_s": lambda one: one.first_token.p95_s,
    "refused": lambda one: one.refused,
    "missed": lambda one: one.missed,
}
Goal = Mapping[str, float]  # The most that each of these figures may be.
INSTANCES_MAX = 1000


def parse_goal(text: str) -> Goal:
    """Read such as `p95_s=10,refused=0.01`."""
    goal: dict[str, float] = {}
    for pair in filter(None, text.split(",")):
        name, _, value = pair.partition("=")
        if name not in FIGURES:
            raise Malformed(f"goal: {name[:40]!r} is not one of {', '.join(FIGURES)}")
        try:
            goal[name] = float(value)
        except ValueError:
            raise Malformed(f"goal: {name} is not a number, but {value[:40]!r}") from None
    return goal


def parse_sweep(text: str) -> range:
    """Read such as `1..8`."""
    first, dots, last = text.partition("..")
    if not (dots and first.isdecimal() and last.isdecimal()) or not 1 <= int(first) <= int(last):
        raise Malformed(f"sweep: {text[:40]!r} is not such as 1..8")
    if int(last) > INSTANCES_MAX:
        raise Malformed(f"sweep: more than {INSTANCES_MAX} instances")
    return range(int(first), int(last) + 1)


def reached(one: Report, goal: Goal) -> bool:
    return all(FIGURES[name](one) <= most for name, most in goal.items())


def smallest(reports: list[Report], goal: Goal) -> int | None:
    """Return from how many instances on every larger fleet that was tried reaches the goal."""
    found = None
    for one in sorted(reports, key=lambda one: -one.instance_count):
        if not reached(one, goal):
            break
        found = one.instance_count
    return found


def sweep_table(reports: list[Report], goal: Goal) -> list[str]:
    head = [
        "instances",
        "p50 s",
        "p95 s",
        "p99 s",
        "first token p95 s",
        "refused",
        "missed",
        "GPU busy",
        "slots used",
    ]
    rows = [
        [
            str(one.instance_count),
            f"{one.total.p50_s:.2f}",
            f"{one.total.p95_s:.2f}",
            f"{one.total.p99_s:.2f}",
            f"{one.first_token.p95_s:.2f}",
            f"{one.refused:.1%}",
            f"{one.missed:.1%}",
            f"{one.utilisation.busy:.0%}",
            f"{one.slots_used:.0%}",
            *(["yes" if reached(one, goal) else "no"] if goal else []),
        ]
        for one in reports
    ]
    return aligned([[*head, *(["goal"] if goal else [])], *rows])
