"""Arrivals from a description instead of a file, by chance but for the seed.

    poisson:rate=5,duration=600,model=llama3.2:3b,prompt=200,output=150,tenants=10,deadline=30
    burst:rate=2,peak=40,every=60,lasting=5,...          a rate of `peak` for `lasting` seconds of every 60
    diurnal:rate=5,peak=20,every=86400,...               from `rate` up to `peak` and back, as a cosine does

Several, joined by "+", come together. `rate` and `peak` are arrivals per second, times are seconds, lengths are
tokens.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from math import cos, exp, log, pi, sqrt
from random import Random

from services.inference.core.names import key
from services.inference.simulation.fields import Fields, Malformed
from services.inference.simulation.trace import ARRIVALS_MAX, PRIORITIES, QUEUE_TIMEOUT_S, Arrival

KINDS = ("poisson", "burst", "diurnal")
_LONGEST = 8  # No prompt or answer is longer than so many times the mean.
_DAY_S = 86_400.0
_WORDS = {"model", "priority"}  # Whose values are texts; all others are numbers.


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """One of the descriptions that are joined."""

    kind: str
    model: str
    rate: float
    peak: float  # For burst and diurnal.
    every_s: float
    lasting_s: float
    start_s: float
    duration_s: float
    prompt: int  # Mean.
    output: int
    spread: float  # Of lengths: standard deviation over mean; 0: all are alike.
    output_max: int
    tenant_count: int
    skew: float  # The n-th tenant asks n**-skew times as often as the first.
    priority: str
    deadline_s: float | None
    queue_timeout_s: float
    leave_s: float | None  # After how long callers give up, on average.
    turns: int  # Every arrival opens a conversation of so many,
    think_s: float  # one every so often, on average.


def is_description(text: str) -> bool:
    return text.partition(":")[0] in KINDS


def synthesise(text: str, seed: int) -> list[Arrival]:
    """Return the arrivals of a description, in order. Raises Malformed."""
    found: list[tuple[float, int, int, Arrival]] = []
    for place, part in enumerate(text.split("+")):
        flow = parse_flow(part)
        # Seeded with a text, a Random is the same in every process.
        for number, arrival in enumerate(_arrivals(flow, place, Random(f"{seed}/{place}"))):  # noqa: S311
            found.append((arrival.at_s, place, number, arrival))
            if len(found) > ARRIVALS_MAX:
                raise Malformed(f"{part}: more than {ARRIVALS_MAX:,} arrivals")
    found.sort(key=lambda item: item[:3])
    return [arrival for *_, arrival in found]


def parse_flow(text: str) -> Flow:
    kind, _, rest = text.partition(":")
    if kind not in KINDS:
        raise Malformed(f"{kind[:40]!r} is not one of {', '.join(KINDS)}")
    row: dict[str, object] = {}
    for pair in filter(None, rest.split(",")):
        name, equals, value = pair.partition("=")
        if not equals:
            raise Malformed(f"{kind}: {pair[:40]!r} is not name=value")
        if name in row:
            raise Malformed(f"{kind}: {name} is there twice")
        row[name] = value if name in _WORDS else _number(kind, name, value)
    fields = Fields(row, where=kind)
    rate = fields.number("rate", high=1e5)
    flow = Flow(
        kind=kind,
        model=key(fields.text("model")),
        rate=rate,
        peak=fields.number("peak", None if kind != "poisson" else rate, low=rate, high=1e5),
        every_s=fields.number("every", _DAY_S if kind == "diurnal" else 60.0, low=1e-3),
        lasting_s=fields.number("lasting", 5.0),
        start_s=fields.number("start", 0.0),
        duration_s=fields.number("duration", 600.0),
        prompt=fields.whole("prompt", 200, low=1, high=1_000_000),
        output=fields.whole("output", 150, high=1_000_000),
        spread=fields.number("spread", 0.5, high=5.0),
        output_max=fields.whole("output_max", 0),
        tenant_count=fields.whole("tenants", 1, low=1, high=100_000),
        skew=fields.number("skew", 0.0, high=5.0),
        priority=fields.choice("priority", list(PRIORITIES), "default"),
        deadline_s=fields.optional_number("deadline"),
        queue_timeout_s=fields.number("timeout", QUEUE_TIMEOUT_S),
        leave_s=fields.optional_number("leave", low=1e-3),
        turns=fields.whole("turns", 1, low=1, high=1000),
        think_s=fields.number("think", 10.0),
    )
    fields.done()
    return flow


def _number(kind: str, name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        raise Malformed(f"{kind}: {name} is not a number, but {value[:40]!r}") from None
    return int(number) if number.is_integer() else number


def _arrivals(flow: Flow, place: int, random: Random) -> Iterator[Arrival]:
    weights = list(accumulate((number + 1) ** -flow.skew for number in range(flow.tenant_count)))
    for opening, at_s in enumerate(_times(flow, random)):
        tenant = random.choices(range(flow.tenant_count), cum_weights=weights)[0]
        name = f"tenant-{tenant}"
        conversation = f"{place}/{opening}" if flow.turns > 1 else ""
        prompt = 0
        turn_at_s = at_s
        for _ in range(flow.turns):
            output = _length(random, flow.output, flow.spread)
            prompt += max(1, _length(random, flow.prompt, flow.spread))
            yield Arrival(
                at_s=turn_at_s,
                model=flow.model,
                prompt_tokens=prompt,
                output_tokens=min(output, flow.output_max or output),
                tenant=name,
                priority=PRIORITIES[flow.priority],
                output_max=flow.output_max,
                deadline_s=flow.deadline_s,
                queue_timeout_s=flow.queue_timeout_s,
                leaves_after_s=None if flow.leave_s is None else random.expovariate(1 / flow.leave_s),
                conversation=conversation,
            )
            prompt += output
            if flow.turns > 1 and flow.think_s > 0:
                turn_at_s += random.expovariate(1 / flow.think_s)


def _times(flow: Flow, random: Random) -> Iterator[float]:
    """Yield when somebody comes: at the highest rate, of which as many stay away as the rate is lower then."""
    rate_of, peak = _rate_of(flow), max(flow.rate, flow.peak)
    if peak <= 0:
        return
    at_s = 0.0
    while (at_s := at_s + random.expovariate(peak)) < flow.duration_s:
        if random.random() * peak < rate_of(at_s):
            yield flow.start_s + at_s


def _rate_of(flow: Flow) -> Callable[[float], float]:
    def burst(at_s: float) -> float:
        return flow.peak if at_s % flow.every_s < flow.lasting_s else flow.rate

    def diurnal(at_s: float) -> float:
        return flow.rate + (flow.peak - flow.rate) * (1 - cos(2 * pi * at_s / flow.every_s)) / 2

    kinds: dict[str, Callable[[float], float]] = {"burst": burst, "diurnal": diurnal}
    return kinds.get(flow.kind, lambda _: flow.rate)


def _length(random: Random, mean: int, spread: float) -> int:
    """Return a length of log-normal distribution: most are short, a few are long."""
    if not mean or not spread:
        return mean
    variance = log(1 + spread * spread)
    drawn = exp(random.gauss(log(mean) - variance / 2, sqrt(variance)))
    return max(1, min(round(drawn), _LONGEST * mean))
