"""Whatever a caller's roles and times, and whatever stands in a table, the bounds make sense."""

import json

from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import InvalidRequest
from services.inference.core.bounds import ROLES, Bounds, Policies, limits, read_policies
from services.inference.core.catalog import ModelConfig, read_models

bounds = st.builds(
    Bounds,
    prompt_code_points_max=st.integers(1, 100),
    temperature_max=st.floats(0, 2),
    output_token_count_max=st.integers(1, 100),
    timeout_s_min=st.floats(0, 10),
    timeout_s_max=st.floats(10, 1000),
)
roles = st.lists(st.sampled_from(ROLES), unique=True)
names = st.sampled_from(["tiny", "admin", "slots", "runner", "num_gpu", "temperature_max"]) | st.text(
    max_size=5
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=12,
)


def allows(one: Bounds, other: Bounds) -> bool:
    return (
        one.prompt_code_points_max >= other.prompt_code_points_max
        and one.temperature_max >= other.temperature_max
        and one.output_token_count_max >= other.output_token_count_max
        and one.timeout_s_min <= other.timeout_s_min
        and one.timeout_s_max >= other.timeout_s_max
    )


@given(bounds, st.dictionaries(st.sampled_from(ROLES), bounds), roles)
def test_a_caller_may_do_what_any_of_its_roles_may(
    default: Bounds, by_role: dict[str, Bounds], mine: list[str]
) -> None:
    policies = Policies(default=default, by_role=by_role)
    found = policies.bounds(mine)
    granted = [by_role.get(role, default) for role in mine] or [default]
    assert all(allows(found, one) for one in granted)
    for name in Bounds.__slots__:  # And nothing that none of them may.
        assert getattr(found, name) in {getattr(one, name) for one in granted}
    assert policies.bounds(list(reversed(mine))) == found


@given(bounds, st.floats(0, 5000), st.none() | st.floats(0.001, 5000))
def test_no_call_waits_or_takes_longer_than_anybody_said(
    allowed: Bounds, remaining_s: float, queue_timeout_s: float | None
) -> None:
    try:
        found = limits(allowed, remaining_s=remaining_s, queue_timeout_s=queue_timeout_s)
    except InvalidRequest:
        assert queue_timeout_s is not None
        assert queue_timeout_s < allowed.timeout_s_min
        return
    assert found.total_s == min(remaining_s, allowed.timeout_s_max)
    assert found.wait_s == min(found.total_s, found.total_s if queue_timeout_s is None else queue_timeout_s)


@given(st.text(max_size=20) | anything.map(json.dumps))
def test_a_table_is_read_or_its_mistakes_are_named_whatever_it_holds(text: str) -> None:
    policies, found = read_policies(text, default=Bounds())
    assert all(one.temperature_max <= 2 for one in policies.by_role.values())
    models, more = read_models(text, otherwise=ModelConfig())
    assert all(config.slots_max >= 0 and "num_ctx" not in config.runner for config in models.values())
    assert all(mistake.startswith(("is ", "has ", "names ")) for mistake in found + more)
