"""`make bench-prompts`: what the list of phrases catches, what it takes for an attack, and what looking costs.

Forty attacks and forty honest prompts, written by hand (data/prompts.json): a small and friendly sample, half of it made
by somebody who knew the list. Attackers who try will do better, so read the catch rate as an upper bound.

The baseline is the guide's own way to look: a lower-case substring.
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from services.common.patterns import USUAL_PHRASES, Phrases
from tests.bench.support.report import Figure, report

PROMPTS = Path(__file__).parent / "data" / "prompts.json"
ROUNDS = 200
LONG = 10_000  # Code points: the longest prompt there is by the default policy.


def share(prompts: Sequence[str], hit: Callable[[str], object]) -> float:
    """Percent of `prompts` that are hit."""
    return 100 * sum(bool(hit(prompt)) for prompt in prompts) / len(prompts)


def cost_us(look: Callable[[str], object], text: str) -> float:
    times = []
    for _ in range(ROUNDS):
        began_s = time.perf_counter()
        look(text)
        times.append(time.perf_counter() - began_s)
    return median(times) * 1e6


def main() -> None:
    prompts = json.loads(PROMPTS.read_text())
    look = Phrases(USUAL_PHRASES).found

    def plainly(text: str) -> list[str]:
        return [phrase for phrase in USUAL_PHRASES if phrase in text.lower()]

    ascii_text, other_text = "ordinary words " * (LONG // 15), "gewöhnliche Wörter " * (LONG // 19)
    figures = [
        Figure(
            name=f"{title} ({len(prompts[kind])})",
            value=share(prompts[kind], look),
            unit="%",
            baseline=share(prompts[kind], plainly),
        )
        for title, kind in (("attacks found", "attacks"), ("honest prompts taken for attacks", "benign"))
    ]
    for title, text in (
        ("10,000 characters, ASCII", ascii_text),
        ("10,000 characters, not ASCII", other_text),
    ):
        figures.append(
            Figure(name=title, value=cost_us(look, text), unit="us", baseline=cost_us(plainly, text))
        )
    report("prompts", rounds=ROUNDS, figures=figures)


if __name__ == "__main__":
    main()
