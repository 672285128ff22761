"""Who may call whom inside: the whole matrix, written out, so that a change of the table is seen twice."""

import pytest

from services.common.peers import PEERS, may_call

CALLERS = ("auth", "agent", "inference", "sandbox", "edge", "operator", "stranger", "")
OURS = {
    "auth": {"agent", "inference", "sandbox", "edge"},
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
    assert may_call(service, caller, HEALTH) is (caller in {*OURS[service], "operator"})


def test_a_service_without_a_row_is_called_by_nobody() -> None:
    assert set(PEERS) == set(OURS)
    assert not any(may_call("new", caller, "/x.Y/Z") for caller in CALLERS)
