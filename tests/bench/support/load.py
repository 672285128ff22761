"""The load generator, as Python calls it. What it does and how it counts stands in tests/bench/tools/load.c."""

import asyncio
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from tests.bench.tools import build

LATENESS_P99_MAX_S = 0.001
SLACK_S = 60.0  # What a run may take beyond its time before something must be wrong.
Protocol = Literal["grpc", "grpc-web", "ndjson", "sse"]


class LoadError(Exception):
    """The load generator did not run, for the reasons that it gave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What to ask for, how often, and what to expect. Give a rate or a concurrency.

    `{{number}}` in the body stands for the request's number in ten digits, so that no two requests are the same.
    """

    protocol: Protocol
    port: int
    path: str
    body: bytes
    authority: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    bearer: str | None = field(default=None, repr=False)
    connections: int = 1  # Of HTTP/2. HTTP/1.1 opens one for each stream at a time.
    rate_per_s: float | None = None  # Open loop: Poisson arrivals, whatever becomes of them.
    concurrency: int | None = None  # Closed loop: so many at a time.
    stagger_s: float = 0.0  # Spreads the first ones of a closed loop, so that paced streams are out of step.
    seed: int = 1
    seconds: float = 10.0
    drain_s: float = 10.0  # How long to wait for what is unfinished then.
    warm_up_s: float = 0.0  # Streams that start earlier give no samples.
    timeout_s: float = 60.0  # gRPC's deadline.
    count_max: int | None = None
    expect_token_count: int | None = None  # A stream with another number of tokens has failed, as "short".
    cancel_share: float = 0.0  # So many streams are cancelled at a random token.
    number_from: int = 0

    def arguments(self, body_path: Path) -> list[str]:
        """Return the command line, without the token, which everybody on the machine could read there."""
        values = {
            "protocol": self.protocol,
            "port": self.port,
            "path": self.path,
            "body": body_path,
            "authority": self.authority,
            "connections": self.connections,
            "rate": self.rate_per_s,
            "concurrency": self.concurrency,
            "stagger": self.stagger_s,
            "seed": self.seed,
            "seconds": self.seconds,
            "drain": self.drain_s,
            "warm-up": self.warm_up_s,
            "timeout-s": self.timeout_s,
            "count": self.count_max,
            "expect-tokens": self.expect_token_count,
            "cancel-share": self.cancel_share,
            "number-from": self.number_from,
        }
        options = [f"--{name}={value}" for name, value in values.items() if value is not None]
        return options + [f"--header={name}: {value}" for name, value in self.headers.items()]


class Spread(msgspec.Struct, frozen=True):
    """How durations are spread, in seconds, each known to 1 %. All are 0 when there are none."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    p999: float
    max: float
    cdf: list[tuple[float, float]]  # Pairs of quantile and value.


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a load. Every stream is completed, failed, cancelled or unfinished."""

    protocol: str
    issued: int
    completed: int
    failed: int
    failures: dict[str, int]  # By gRPC's or HTTP's status, or by what broke.
    first_failure: str  # With the other side's words.
    cancelled: int
    unfinished: int
    wall_s: float
    cpu_s: float  # The generator's own.
    messages: int  # gRPC messages, NDJSON lines or SSE events, the last ones included.
    tokens: int
    bytes: int
    tokens_per_s: float  # Between the warm-up and the end of issuing.
    lateness_s: Spread  # When a request was sent, after it was to be.
    first_token_s: Spread  # Since the intended start.
    token_way_s: Spread  # Since the time that the token carries.
    interval_s: Spread  # Between a stream's tokens, as they arrived.
    total_s: Spread  # Of completed streams, since the intended start.
    is_open_loop: bool = False

    @property
    def void(self) -> str | None:
        """Return why nothing can be concluded from this, if so.

        A closed loop's streams start when earlier ones end, so there is no time by which they are late.
        """
        if self.completed == 0:
            return f"no stream completed ({self.first_failure or 'none failed either'})"
        if self.is_open_loop and self.lateness_s.p99 > LATENESS_P99_MAX_S:
            return f"the load generator was late: p99 {self.lateness_s.p99 * 1e3:.2f} ms"
        return None


def run(load: Load) -> Outcome:
    """Put the load on and wait for its end."""
    with _command(load) as (command, environment):
        done = subprocess.run(
            command, env=environment, capture_output=True, check=False, timeout=_timeout_s(load)
        )
    return _outcome(load, done.returncode, done.stdout, done.stderr)


async def run_async(load: Load) -> Outcome:
    """Put the load on beside what else the loop does. Cancelled, it ends."""
    with _command(load) as (command, environment):
        process = await asyncio.create_subprocess_exec(
            *command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            output, errors = await asyncio.wait_for(process.communicate(), _timeout_s(load))
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert process.returncode is not None
    return _outcome(load, process.returncode, output, errors)


def plan(load: Load) -> list[tuple[float, int]]:
    """Return when each stream would start, and after how many tokens it would be cancelled (0: not at all)."""
    with _command(load) as (command, environment):
        done = subprocess.run([*command, "--dry-run"], env=environment, capture_output=True, check=False)
    _check(done.returncode, done.stderr)
    return msgspec.json.decode(done.stdout, type=dict[str, list[tuple[float, int]]])["plan"]


@contextmanager
def _command(load: Load) -> Iterator[tuple[list[str], dict[str, str]]]:
    program = build.program("load")
    if program is None:
        raise LoadError(build.NO_COMPILER)
    environment = {name: value for name, value in os.environ.items() if name != "LOAD_BEARER"}
    if load.bearer is not None:
        environment["LOAD_BEARER"] = load.bearer
    with tempfile.NamedTemporaryFile() as body:
        body.write(load.body)
        body.flush()
        yield [str(program), *load.arguments(Path(body.name))], environment


def _timeout_s(load: Load) -> float:
    return load.seconds + load.drain_s + SLACK_S


def _outcome(load: Load, status: int, output: bytes, errors: bytes) -> Outcome:
    _check(status, errors)
    outcome = msgspec.json.decode(output, type=Outcome)
    return msgspec.structs.replace(outcome, is_open_loop=load.rate_per_s is not None)


def _check(status: int, errors: bytes) -> None:
    if status != 0:
        raise LoadError(f"load ended with {status}: {errors.decode(errors='replace').strip()}")
