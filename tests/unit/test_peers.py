"""Who may call whom inside: the whole matrix, written out, so that a change of the table is seen twice."""

import pytest

from services.common.peers import PEERS, may_call
from services.common.policy import POLICY

CALLERS = ("auth", "agent", "inference", "sandbox", "edge", "operator", "stranger", "")
OURS = {
    "auth": {"auth", "agent", "inference", "sandbox", "edge"},
    "agent": {"edge"},
    "inference": {"agent", "edge"},
    "sandbox": {"agent", "edge"},
}
HEALTH = "/grpc.health.v1.Health/Check"


@pytest.mark.parametrize("service", OURS)
@pytest.mark.parametrize("caller", CALLERS)
def test_the_matrix(service: str, caller: str) -> None:
    method = f"/ollamesh.{service}.v1.X/Y"
    assert may_call(service, caller, method) is (caller in OURS[service])
    assert may_call(service, caller, HEALTH) is (caller in {*OURS[service], "operator", service})


def test_a_service_without_a_row_is_called_by_nobody() -> None:
    assert set(PEERS) == set(OURS)
    assert not any(may_call("new", caller, "/x.Y/Z") for caller in CALLERS)


def test_whom_a_method_names_may_call_its_service() -> None:
    for method, row in POLICY.items():
        service = "auth" if method.startswith("/envoy.") else method.split(".")[1]
        assert all(may_call(service, caller, method) for caller in row.callers), method
