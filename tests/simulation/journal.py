"""What a decision log says."""

from services.common.errors import MeshError
from services.inference.core.decisions import Decision, Dispatch, Load, Unload


def entry(now_s: float, outcome: Decision | MeshError) -> str:
    """One line, to the last bit, and nothing that has no order."""
    match outcome:
        case Dispatch(job, name):
            text = f"dispatch {job.ticket} {name}"
        case Load(name, model, cause):
            text = f"load {name} {model} {cause}"
        case Unload(name, model):
            text = f"unload {name} {model}"
        case MeshError():
            text = f"refuse {outcome.reason} {outcome.retry_after_s!r} {sorted(outcome.facts.items())}"
        case _:
            text = f"{type(outcome).__name__.lower()} {outcome.job.ticket}"
    return f"{now_s!r} {text}"
