"""A simulation from its parts: arrivals from a file or a description, a fleet, and what stands before it."""

from collections.abc import Callable, Sequence
from pathlib import Path

from services.inference.simulation.fields import Malformed
from services.inference.simulation.fleet_spec import FleetSpec
from services.inference.simulation.fronts import Fifo, Gateway, RoundRobin
from services.inference.simulation.recorded import arrivals_of
from services.inference.simulation.report import Report, report
from services.inference.simulation.synthetic import is_description, synthesise
from services.inference.simulation.trace import Arrival, header_of, parse_arrivals, parse_lines
from services.inference.simulation.world import World

GATEWAY, OLLAMA, FIFO = "gateway", "ollama", "fifo"


def arrivals_from(source: str, *, seed: int) -> list[Arrival]:
    """Return the arrivals of a description, a trace or a recording. Raises Malformed, OSError."""
    if is_description(source):
        return synthesise(source, seed)
    with Path(source).open(encoding="utf-8", errors="replace") as lines:
        rows = parse_lines(lines)
        first = next(rows, None)
        if first is None:
            raise Malformed("line 1: there is none")
        return arrivals_of(rows) if header_of(first) else parse_arrivals(rows)


def simulate(
    fleet: FleetSpec,
    arrivals: Sequence[Arrival],
    *,
    front: str = GATEWAY,
    log: Callable[[str], None] | None = None,
) -> Report:
    """Run it and report. `log` is given the gateway's decision log, in the format of a recording."""
    world = World(fleet, arrivals)
    match front:
        case "ollama":
            ran = world.run(RoundRobin(world))
        case "fifo":
            ran = world.run(Fifo(world))
        case _:
            ran = world.run(Gateway(world, log=log))
    return report(front, ran, weights=fleet.policy.weights)
