"""`ollamesh simulate`: the gateway's own scheduler in virtual time, on a fleet that you describe."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec

from clients.cli.failures import Failure
from services.inference.simulation.fields import Malformed
from services.inference.simulation.fleet_spec import FleetSpec, read_fleet
from services.inference.simulation.goals import Goal, parse_goal, parse_sweep, reached, smallest, sweep_table
from services.inference.simulation.replay import verify as replay
from services.inference.simulation.report import Report, table
from services.inference.simulation.simulate import FIFO, OLLAMA, arrivals_from
from services.inference.simulation.simulate import simulate as simulated
from services.inference.simulation.trace import Arrival

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("trace")
@click.option("--fleet", metavar="SPEC", type=_FILE, help="The fleet: a TOML or JSON file.")
@click.option("--instances", metavar="N", type=click.IntRange(1, 1000), help="As many of them, instead.")
@click.option(
    "--seed", metavar="N", type=int, default=0, help="For a TRACE that is described; 0 if not given."
)
@click.option(
    "--compare",
    type=click.Choice([OLLAMA, FIFO]),
    multiple=True,
    help="Show beside it what becomes of the same trace without a gateway, or with a plain queue.",
)
@click.option("--sweep", metavar="A..B", help="Try fleets of A to B instances.")
@click.option(
    "--goal",
    metavar="FIGURE=MOST,...",
    default="",
    help="What is to be reached, such as p95_s=10,refused=0.01; the exit code is 1 if it is not.",
)
@click.option(
    "--log", metavar="FILE", type=_FILE, help="Write every input and decision of the scheduler there."
)
@click.option(
    "--verify", is_flag=True, help="Replay a recorded TRACE and say whether all is decided as it was."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def simulate(  # noqa: PLR0913 - One for each option.
    *,
    trace: str,
    fleet: Path | None,
    instances: int | None,
    seed: int,
    compare: tuple[str, ...],
    sweep: str | None,
    goal: str,
    log: Path | None,
    verify: bool,
    as_json: bool,
) -> None:
    """Say how a fleet that you describe would do: how many GPUs it takes.

    Of TRACE are told latencies, refusals, loads and how busy the GPUs would be.

    TRACE is a file (docs/simulate.md), also one that the gateway recorded, or a description such as

    \b
    poisson:rate=5,duration=600,model=llama3.2:3b,prompt=200,output=150,tenants=10,deadline=30
    """  # noqa: D301 - it is the sign that click keeps the line as it is.
    if verify:
        _verify(trace)
        return
    if fleet is None:
        raise click.UsageError("Missing option '--fleet'.")
    if sweep and (compare or log or instances):
        raise click.UsageError("--sweep goes with none of --compare, --log and --instances.")
    with _sentences(usage=True):
        wanted, counts = parse_goal(goal), parse_sweep(sweep) if sweep else None
    with _sentences():
        spec = read_fleet(fleet)
        arrivals = arrivals_from(trace, seed=seed)
        if counts is not None:
            _sweep(spec, arrivals, counts=counts, goal=wanted, as_json=as_json)
            return
        if instances is not None:
            spec = spec.with_instances(instances)
        with _log_to(log) as write:
            reports = [simulated(spec, arrivals, log=write)]
        reports += [simulated(spec, arrivals, front=front) for front in dict.fromkeys(compare)]
    _show(reports, table(reports), as_json=as_json)
    if not reached(reports[0], wanted):
        raise Failure("the goal is not reached")


def _sweep(spec: FleetSpec, arrivals: list[Arrival], *, counts: range, goal: Goal, as_json: bool) -> None:
    reports = [simulated(spec.with_instances(count), arrivals) for count in counts]
    enough = smallest(reports, goal)
    lines = sweep_table(reports, goal)
    if goal and enough is not None:
        lines += ["", f"{enough} {'instance reaches' if enough == 1 else 'instances reach'} the goal."]
    _show(reports, lines, as_json=as_json)
    if goal and enough is None:
        most = counts[-1]
        raise Failure(f"{most} {'instance does' if most == 1 else 'instances do'} not reach the goal")


def _show(reports: list[Report], lines: list[str], *, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode([one.plain() for one in reports]))
    else:
        click.echo("\n".join(lines))


def _verify(trace: str) -> None:
    with _sentences(), Path(trace).open(encoding="utf-8", errors="replace") as lines:
        verdict = replay(lines)
    if verdict.difference:
        raise Failure(f"after {verdict.line_count:,} lines that are the same, {verdict.difference}")
    note = f" ({verdict.note})" if verdict.note else ""
    click.echo(f"{verdict.line_count:,} lines, and the replay is the same{note}")


@contextmanager
def _log_to(path: Path | None) -> Iterator[Callable[[str], None] | None]:
    if path is None:
        yield None
        return
    with path.open("w", encoding="utf-8") as file:

        def write(text: str) -> None:
            file.write(text)

        yield write


@contextmanager
def _sentences(*, usage: bool = False) -> Iterator[None]:
    """Turn what is wrong with a file or an option into a sentence."""
    try:
        yield
    except Malformed as error:
        raise (click.UsageError(str(error)) if usage else Failure(str(error))) from None
    except OSError as error:
        raise Failure(f"{error.filename}: {error.strerror}") from None
