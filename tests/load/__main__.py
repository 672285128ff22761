"""`make load`: load a mesh, print what came of it, write .ollamesh/load/. README.md has the knobs."""

import asyncio
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import get_args

import psutil

from tests.bench.support.apart import run_apart
from tests.bench.support.report import ROOT
from tests.load.plots import draw
from tests.load.record import Plan, Record
from tests.load.report import Run, lines, write
from tests.load.schedule import ScheduleError, read_mix, schedule
from tests.load.target import Source, Target, TargetError, Watch, target

FOLDER = ROOT / ".ollamesh" / "load"


def chosen(environment: Mapping[str, str]) -> tuple[Source, Run]:
    """What a person asked for. Raises ScheduleError or TargetError."""
    source = environment.get("MODELS") or "embedded"
    known = next((name for name in get_args(Source) if name == source), None)
    if known is None:
        raise TargetError(f"MODELS is one of {', '.join(get_args(Source))}, and not {source!r}")
    try:
        seconds, rate, seed = (
            kind(environment.get(name) or default)
            for name, kind, default in (("SECONDS", float, "60"), ("RATE", float, "1"), ("SEED", int, "1"))
        )
    except ValueError:
        raise ScheduleError("SECONDS, RATE and SEED are numbers") from None
    run = Run(
        target=f"{known} models",
        seconds=seconds,
        rate=rate,
        mix=read_mix(environment.get("MIX", "")),
        seed=int(seed),
        machine=f"{psutil.cpu_count()} processors, {psutil.virtual_memory().total / 2**30:.0f} GiB",
    )
    return known, run


def measure(run: Run, loaded: Target) -> Record:
    """Put the load on, and watch what the parts take meanwhile."""
    plan = Plan(
        edge=loaded.edge,
        username="admin",
        password=loaded.password,
        shots=schedule(run.mix, seconds=run.seconds, rate=run.rate, seed=run.seed),
        models=loaded.models,
    )
    with Watch(loaded.pids) as watch:
        record = asyncio.run(run_apart("tests.load.drive", plan, Record))
        return replace(record, parts=watch.costs)


def main(environment: Mapping[str, str]) -> int:
    try:
        source, run = chosen(environment)
        gpus, slots = int(environment.get("GPUS") or 1), int(environment.get("SLOTS") or 8)
        with target(source, gpus=gpus, slots=slots) as loaded:
            record = measure(run, loaded)
    except (ScheduleError, TargetError) as error:
        print(f"load: {error}", file=sys.stderr)
        return 2
    write(FOLDER, run, record)
    print("\n".join(lines(run, record)))
    pictures = draw(record, FOLDER, title=f"{run.target}, rate {run.rate:g}, {run.seconds:g} s")
    print(
        f"\nWritten: {', '.join(str(path.relative_to(ROOT)) for path in (FOLDER / 'report.md', *pictures))}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(os.environ))
