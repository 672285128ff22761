"""Shows people that something is going on: one line a step, its duration, and a sign of life."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

SIGN_OF_LIFE_S = 5.0


def say(line: str) -> None:
    print(f"models: {line}", file=sys.stderr, flush=True)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Announce `what`, repeat it while it lasts, and say how long it took."""
    began_s = time.monotonic()
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(SIGN_OF_LIFE_S):
            say(f"{what} ... {time.monotonic() - began_s:.0f} s")

    thread = threading.Thread(target=repeat, daemon=True)
    say(f"{what} ...")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    say(f"{what}: done in {time.monotonic() - began_s:.1f} s")
