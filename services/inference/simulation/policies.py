"""The scheduler's knobs as files have them."""

from dataclasses import fields, replace

from services.inference.core.policy import Policy
from services.inference.simulation.fields import Fields


def read_policy(table: Fields) -> Policy:
    """Return the defaults with what `table` overrides."""
    policy = Policy()
    found: dict[str, object] = {}
    for knob in fields(Policy):
        default = getattr(policy, knob.name)
        if knob.name == "weights":
            weights = table.table("weights")
            found["weights"] = {tenant: weights.number(tenant, low=1e-9) for tenant in weights.names()}
        elif isinstance(default, int):
            found[knob.name] = table.whole(knob.name, default)
        else:
            found[knob.name] = table.number(knob.name, default)
    table.done()
    return replace(policy, **found)  # type: ignore[arg-type]  # Each was read as what its default is.
