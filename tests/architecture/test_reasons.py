"""Every failure that a service can raise has its reason in that service's proto."""

import importlib
import pkgutil

import pytest

import services
from services.common.errors import MeshError


def _failures(package: str) -> list[type[MeshError]]:
    module = importlib.import_module(package)
    return [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, MeshError) and hasattr(value, "reason")
    ]


NAMES = [
    name for _, name, is_package in pkgutil.iter_modules(services.__path__) if is_package and name != "common"
]


# What a service cannot meet: auth asks nobody for keys, the sandbox has no store, and these two administer nothing.
UNMET = {
    "auth": {"AUTH_UNAVAILABLE", "PROMPT_BLOCKED"},
    "agent": {"AUDIT_UNAVAILABLE"},
    "sandbox": {"STORE_UNAVAILABLE", "STORE_BUSY", "PROMPT_BLOCKED", "AUDIT_UNAVAILABLE"},
}


@pytest.mark.parametrize("name", NAMES)
def test_reasons_are_in_the_proto(name: str) -> None:
    reasons = importlib.import_module(f"ollamesh.{name}.v1.error_reason_pb2").ErrorReason.keys()
    failures = [*_failures(f"services.{name}.errors"), *_failures("services.common.errors")]
    own = [failure for failure in failures if failure.reason not in UNMET.get(name, ())]
    assert own
    assert {failure.reason for failure in own} <= {reason.removeprefix("ERROR_REASON_") for reason in reasons}
