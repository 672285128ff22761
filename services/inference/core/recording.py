"""How everything that goes into the scheduler, and everything that it decides, becomes lines of text.

One JSON object a line, keys sorted, numbers written so that reading them gives the same numbers back: the same
calls give the same bytes, and a recording fed to a fresh scheduler (simulation/replay.py) gives them again.

What is recorded: times, counts, names of models and instances. What is not: prompts and answers. Tenants and
the keys of prefixes are replaced by keyed hashes (`alias`); the key is of the one file, is not in it and is forgotten with
the process, so nobody can find out by trying names whether a tenant is among them.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from hashlib import blake2b
from math import inf

from services.common.errors import MeshError
from services.inference.core.decisions import Decision, Dispatch, Displace, Expire, Fail, Load, Unload
from services.inference.core.estimates import Estimates
from services.inference.core.hosts import Capacity
from services.inference.core.jobs import Job
from services.inference.core.policy import Policy
from services.inference.core.scheduler import Scheduler, Settled
from services.inference.core.usage import Usage

VERSION = 1
STOPPED = "stopped"  # The kind of the last line of a recording that has reached its bound.
# The kinds of lines that a call gives beside its own.
OUTPUTS = frozenset(
    {
        "refuse",
        "settled",
        *(kind.__name__.lower() for kind in (Dispatch, Displace, Expire, Fail, Load, Unload)),
    }
)
_ALIAS_BYTES = 8
Alias = Callable[[str], str]
Write = Callable[[str], None]


def _plain(value: object) -> object:
    """Return what JSON has instead of a set: in an order that does not depend on hashes."""
    assert isinstance(value, frozenset), type(value)
    return sorted(value)


_ENCODE = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False, default=_plain).encode


def keyed(salt: bytes) -> Alias:
    """Return what replaces a name by its hash. The empty name, which is nobody's, stays."""

    def alias(name: str) -> str:
        return blake2b(name.encode(errors="surrogatepass"), digest_size=_ALIAS_BYTES, key=salt).hexdigest()

    return lambda name: alias(name) if name else name


def line(kind: str, **fields: object) -> str:
    return _ENCODE({"kind": kind, **fields}) + "\n"


def header(policy: Policy, estimates: Estimates, *, alias: Alias) -> str:
    """Return the first line: what the scheduler is made with."""
    knobs = asdict(policy)
    knobs["weights"] = {alias(tenant): weight for tenant, weight in policy.weights.items()}
    exported = estimates.export()
    lengths = exported.get("output_token_count")
    if isinstance(lengths, list):  # The one table with tenants in it.
        exported["output_token_count"] = [[model, alias(of), *numbers] for model, of, *numbers in lengths]
    return line("header", version=VERSION, recorded=True, policy=knobs, estimates=exported)


class RecordingScheduler(Scheduler):
    """A Scheduler that writes down what goes in and comes out; each call in one piece, so that a recording that
    ends early ends between two calls.

    It inherits, which is not our habit: what is only asked is nobody's input, and need not be repeated here.
    """

    def __init__(self, policy: Policy, estimates: Estimates, *, write: Write, alias: Alias) -> None:
        super().__init__(policy, estimates)
        self._write = write
        self._alias = alias
        write(header(policy, estimates, alias=alias))

    def submit(self, job: Job, now_s: float) -> None:
        asked = self._submitted(job, now_s)
        try:
            super().submit(job, now_s)
        except MeshError as refusal:
            self._write(asked + _refused(job, refusal))
            raise
        self._write(asked)

    def withdraw(self, ticket: int) -> None:
        self._write(line("withdraw", ticket=ticket))
        super().withdraw(ticket)

    def end(self, ticket: int, usage: Usage | None, now_s: float) -> Settled:
        settled = super().end(ticket, usage, now_s)
        ended = line("end", at_s=now_s, ticket=ticket, usage=None if usage is None else asdict(usage))
        self._write(
            ended + line("settled", ticket=ticket, surprise=settled.surprise, **asdict(settled.charge))
        )
        return settled

    def observe(self, capacity: Capacity, now_s: float) -> None:
        self._write(line("observe", at_s=now_s, **asdict(capacity)))
        super().observe(capacity, now_s)

    def loaded(self, instance: str, model: str, *, ok: bool, load_s: float, now_s: float) -> None:
        self._write(line("loaded", at_s=now_s, instance=instance, model=model, ok=ok, load_s=load_s))
        super().loaded(instance, model, ok=ok, load_s=load_s, now_s=now_s)

    def unloaded(self, instance: str, model: str, now_s: float) -> None:
        self._write(line("unloaded", at_s=now_s, instance=instance, model=model))
        super().unloaded(instance, model, now_s)

    def decide(self, now_s: float) -> list[Decision]:
        decisions = super().decide(now_s)
        self._write(line("decide", at_s=now_s) + "".join(map(decided, decisions)))
        return decisions

    def _submitted(self, job: Job, now_s: float) -> str:
        return line(
            "submit",
            at_s=now_s,
            ticket=job.ticket,
            tenant=self._alias(job.tenant),
            model=job.model,
            priority=job.priority.name.lower(),
            arrived_at_s=job.arrived_at_s,
            expires_at_s=_finite(job.expires_at_s),
            deadline_at_s=_finite(job.deadline_at_s),
            prompt_tokens=job.prompt_token_count,
            output_max=job.output_token_max,
            prefixes=[
                {"key": self._alias(prefix.key), "tokens": prefix.token_count} for prefix in job.prefixes
            ],
            avoid=job.avoid,
        )


def decided(decision: Decision) -> str:
    """Return a decision as its line."""
    kind = type(decision).__name__.lower()
    match decision:
        case Dispatch(job, instance):
            return line(kind, ticket=job.ticket, instance=instance)
        case Load(instance, model, cause):
            return line(kind, instance=instance, model=model, cause=cause)
        case Unload(instance, model):
            return line(kind, instance=instance, model=model)
        case _:
            return line(kind, ticket=decision.job.ticket)


def _refused(job: Job, refusal: MeshError) -> str:
    return line(
        "refuse",
        ticket=job.ticket,
        reason=refusal.reason,
        retry_after_s=refusal.retry_after_s,
        facts=refusal.facts,
    )


def _finite(at_s: float) -> float | None:
    return None if at_s == inf else at_s
