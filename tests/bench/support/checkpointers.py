"""Our checkpointer beside the published one: how many steps of runs a second, on a PostgreSQL that syncs to disk.

Each in a process of its own, by turns, on databases of one server. Ours seals what it stores, asks for a lease and keeps
within one organisation's rows; the published one does none of that.
"""

import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import median

from tests.bench.peers.install import installed, python
from tests.bench.support.report import ROOT, Figure
from tests.stack import Database, running_postgres

PEER = "published_saver"
CONCURRENCY = 16
TIMES_PUBLISHED = 2.0
# A saver that does one thing at a time gains nothing by more runs. Measured: 3 to 5.
TIMES_ALONE = 2.5
TIMEOUT_S = 120.0


def cycles_per_s(
    name: str, dsn: str, *, seconds: float, concurrency: int, with_python: Path | str = sys.executable
) -> float:
    done = subprocess.run(
        [str(with_python), "-m", f"tests.bench.peers.{name}", dsn, str(seconds), str(concurrency)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr[-500:]}")
    return float(done.stdout)


def measured(database: Database, *, rounds: int, seconds: float, with_peer: bool) -> Mapping[str, float]:
    """Return the median rate of each, by turns."""
    rates: defaultdict[str, list[float]] = defaultdict(list)
    ours, theirs = database("agent"), database.admin_dsn
    for _ in range(rounds):
        rates["ours"].append(cycles_per_s("our_saver", ours, seconds=seconds, concurrency=CONCURRENCY))
        rates["alone"].append(cycles_per_s("our_saver", ours, seconds=seconds, concurrency=1))
        if with_peer:
            rates[PEER].append(
                cycles_per_s(PEER, theirs, seconds=seconds, concurrency=CONCURRENCY, with_python=python(PEER))
            )
    return {name: median(values) for name, values in rates.items()}


def checkpointer_figures(
    *, rounds: int, seconds: float = 4.0, slack: float = 1.0, with_peer: bool = True
) -> list[Figure]:
    """A peer that is not installed is left out."""
    with running_postgres(durable=True) as server, server.fresh() as database:
        rates = measured(database, rounds=rounds, seconds=seconds, with_peer=with_peer and installed(PEER))
    alone = rates["alone"]
    found = [
        Figure(
            name=f"checkpoint cycles of {CONCURRENCY} runs, against one run",
            value=rates["ours"],
            unit="1/s",
            baseline=alone,
            goal=alone * TIMES_ALONE / slack,
            at_least=True,
        )
    ]
    if published := rates.get(PEER):
        found.append(
            Figure(
                name=f"checkpoint cycles of {CONCURRENCY} runs, against the published saver",
                value=rates["ours"],
                unit="1/s",
                baseline=published,
                goal=published * TIMES_PUBLISHED / slack,
                at_least=True,
            )
        )
    return found
