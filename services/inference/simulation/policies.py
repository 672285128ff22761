"""The scheduler's knobs as files have them."""

from dataclasses import fields, replace

from services.inference.core.policy import Policy
from services.inference.simulation.fields import Fields


def read_policy(table: Fields) -> Policy:
    """Return the defaults with what `table` overrides."""
    policy = Policy()
    for knob in fields(Policy):
        default = getattr(policy, knob.name)
        if knob.name == "weights":
            weights = table.table("weights")
            found = {tenant: weights.number(tenant, low=1e-9) for tenant in weights.names()}
            policy = replace(policy, weights=found)
        elif isinstance(default, int):
            policy = replace(policy, **{knob.name: table.whole(knob.name, default)})
        else:
            policy = replace(policy, **{knob.name: table.number(knob.name, default)})
    table.done()
    return policy
