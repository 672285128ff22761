"""Who calls, and what they may ask for: the same for every wire."""

from services.common.grpc.caller import caller
from services.inference.core.bounds import Bounds, Policies
from services.inference.core.callers import Principal


def principal() -> Principal:
    """Return on whose behalf this call is made."""
    found = caller()
    return Principal(
        organization_id=found.organization_id,
        project_id=found.project_id,
        user_id=found.user_id,
        api_key_id=found.api_key_id or "",
        token=found.token,
    )


def bounds_of_caller(policies: Policies) -> Bounds:
    """Return what this call's caller may ask for."""
    found = caller()
    return policies.bounds([found.role.value, *(["service"] if found.is_service else [])])
