"""How many tokens a second each target relays when its upstream is as fast as it can be."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.bench.plane.target import Target
from tests.bench.support.load import run

STREAMS = 4
SECONDS, WARM_UP_S = 4.0, 1.0
MODEL = "stub-n5000-i0:latest"
# Streams that end within the time: a slow target would finish none of the long ones.
SHORT_MODEL = "stub-n100-i0:latest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    tokens_per_s: float
    cpu_per_token_s: float


def measure(targets: Sequence[tuple[Target, str]], *, rounds: int) -> Mapping[str, list[Rate]]:
    """Measure targets with their models in turns."""
    found: defaultdict[str, list[Rate]] = defaultdict(list)
    for _ in range(rounds):
        for target, model in targets:
            load = target.load(model, concurrency=STREAMS, seconds=SECONDS, warm_up_s=WARM_UP_S)
            began_cpu_s = target.cpu_s()
            outcome = run(load)
            if outcome.tokens == 0 or outcome.failed:
                raise RuntimeError(f"{target.name}: {outcome.failures} {outcome.first_failure}")
            found[target.name].append(
                Rate(
                    tokens_per_s=outcome.tokens_per_s,
                    cpu_per_token_s=(target.cpu_s() - began_cpu_s) / outcome.tokens,
                )
            )
    return found
