"""What was measured, as figures: each beside its baseline of the same run, and with the goal it has."""

from collections.abc import Callable, Mapping, Sequence
from statistics import median

from tests.bench.plane.ladder import Climb
from tests.bench.plane.memory import Weight
from tests.bench.plane.paced import Rounds
from tests.bench.plane.relay import Rate
from tests.bench.support.load import Outcome, Spread
from tests.bench.support.report import Figure

# Who is compared with whom: a target's own way to the stub without anything between.
BASES = {
    "gateway": "direct",
    "gateway, edge": "direct",
    "gateway, edge, gRPC-Web": "direct",
    "litellm": "direct, SSE",
    "vllm-router": "direct, SSE",
}
FIRST_TOKEN_SHARE, TOKEN_WAY_SHARE = 1 / 12, 1 / 4  # Of LiteLLM's.
EDGE_TIMES = 2.5  # The gateway's own.
RELAY_TIMES_BARE, RELAY_TIMES_LITELLM = 10.0, 200.0
STREAMS_TIMES_LITELLM, STREAMS_MIN = 15.0, 200.0
IDLE_MB_MAX, BASE_SHARE = 30.0, 1 / 4
AUTH_US_MAX, VALIDATION_US_MAX = 5.0, 25.0


def paced(rounds: Rounds) -> list[Figure]:
    """Return what each target adds to a first token and to a token's way."""
    return [
        *_added(rounds, "first token", lambda outcome: outcome.first_token_s, FIRST_TOKEN_SHARE, "ms", 1e3),
        *_added(rounds, "a token's way", lambda outcome: outcome.token_way_s, TOKEN_WAY_SHARE, "us", 1e6),
        *(
            Figure(
                name=f"processor time per token, few streams: {name}",
                value=rounds.cpu_per_token_s(name) * 1e6,
                unit="us",
            )
            for name in BASES
            if rounds.has(name)
        ),
    ]


def _added(
    rounds: Rounds, what: str, of: Callable[[Outcome], Spread], share: float, unit: str, scale: float
) -> list[Figure]:
    found = [
        Figure(
            name=f"{what}, p50: {name}",
            value=rounds.median_s(name, lambda one: of(one).p50) * scale,
            unit=unit,
        )
        for name in ("direct", "direct, SSE")
        if rounds.has(name)
    ]
    added = {
        name: rounds.added_s(name, base, of) * scale for name, base in BASES.items() if rounds.has(name, base)
    }
    litellm, router, gateway = added.get("litellm"), added.get("vllm-router"), added.get("gateway")
    for name, value in added.items():
        goal = litellm * share if litellm is not None and name == "gateway" else None
        if name == "gateway, edge" and what == "first token" and gateway is not None:
            goal = gateway * EDGE_TIMES
        baseline = gateway if name.startswith("gateway,") else litellm
        found.append(
            Figure(name=f"{what}, added p50: {name}", value=value, unit=unit, baseline=baseline, goal=goal)
        )
    if router is not None and gateway is not None:
        name = f"{what}, added p50: gateway, against vllm-router's"
        found.append(Figure(name=name, value=gateway, unit=unit, baseline=router, goal=router))
    return found


def relay(rates: Mapping[str, Sequence[Rate]], *, slack: float = 1.0) -> list[Figure]:
    """Return what is relayed at saturation. `slack` lowers the goals."""
    speed = {name: median(rate.tokens_per_s for rate in some) for name, some in rates.items()}
    found = [
        Figure(
            name=f"relayed at saturation: {name}", value=value, unit="tokens/s", baseline=speed.get("direct")
        )
        for name, value in speed.items()
    ]
    for peer, times in (
        ("bare-aio", RELAY_TIMES_BARE),
        ("litellm", RELAY_TIMES_LITELLM),
        ("vllm-router", 1.0),
    ):
        if peer in speed:
            found.append(
                Figure(
                    name=f"relayed at saturation: gateway, against {peer}'s",
                    value=speed["gateway"],
                    unit="tokens/s",
                    baseline=speed[peer],
                    goal=speed[peer] * times / slack,
                    at_least=True,
                )
            )
    return found + [
        Figure(
            name=f"processor time per token, saturated: {name}",
            value=median(rate.cpu_per_token_s for rate in some) * 1e6,
            unit="us",
        )
        for name, some in rates.items()
        if name != "direct"
    ]


def ladder(climbs: Mapping[str, Sequence[Climb]]) -> list[Figure]:
    """Return how many paced streams each carries."""
    sustained = {name: median(climb.sustained for climb in some) for name, some in climbs.items()}
    litellm = sustained.get("litellm")
    found = []
    for name, value in sustained.items():
        goal = STREAMS_MIN if name == "gateway" else None
        unit = "streams"
        found.append(
            Figure(
                name=f"streams at 50 tokens/s: {name}",
                value=value,
                unit=unit,
                baseline=sustained.get("direct"),
                goal=goal,
                at_least=True,
            )
        )
    if litellm:
        found.append(
            Figure(
                name="streams at 50 tokens/s: gateway, against litellm's",
                value=sustained["gateway"],
                unit="streams",
                baseline=litellm,
                goal=litellm * STREAMS_TIMES_LITELLM,
                at_least=True,
            )
        )
    return found


def memory(weights: Mapping[str, Weight], *, slack: float = 1.0) -> list[Figure]:
    """Return what processes and idle streams weigh."""
    found = []
    litellm = weights.get("litellm")
    for name, weight in weights.items():
        base_goal = litellm.base_bytes * BASE_SHARE / 1e6 if litellm and name == "gateway" else None
        found += [
            Figure(
                name=f"resident at rest: {name}",
                value=weight.base_bytes / 1e6,
                unit="MB",
                baseline=litellm.base_bytes / 1e6 if litellm else None,
                goal=base_goal,
            ),
            Figure(
                name=f"1,000 idle streams: {name}",
                value=weight.per_thousand_bytes / 1e6,
                unit="MB",
                baseline=litellm.per_thousand_bytes / 1e6 if litellm else None,
                goal=IDLE_MB_MAX * slack if name == "gateway" else None,
            ),
        ]
    return found


def costs(
    auth_s: tuple[float, float],
    validation_s: tuple[float, float],
    *,
    auth_us_max: float = AUTH_US_MAX,
    validation_us_max: float = VALIDATION_US_MAX,
) -> list[Figure]:
    """Return what is done once for each request, each beside its baseline."""
    return [
        Figure(
            name="a known token, against an unknown one",
            value=auth_s[0] * 1e6,
            unit="us",
            baseline=auth_s[1] * 1e6,
            goal=auth_us_max,
        ),
        Figure(
            name="a request of ten messages: parsed and validated, against parsed",
            value=validation_s[0] * 1e6,
            unit="us",
            baseline=validation_s[1] * 1e6,
            goal=validation_us_max,
        ),
    ]
