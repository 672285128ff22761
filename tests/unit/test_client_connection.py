"""Addresses, patience and errors, without a socket."""

import pytest
from grpc import StatusCode
from ollamesh.client import CallError, ClientCredentials, Password, StaticToken, Violation
from ollamesh.client.channel import open_channel
from ollamesh.client.credentials import Credentials
from ollamesh.client.resuming import RECONNECT_AFTER_MAX_S, RECONNECT_AFTER_S, backoff_s


@pytest.mark.parametrize("address", ["ftp://host", "http://", "", "http://host/path", "https://host:1?x=1"])
async def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="not an address of a mesh"):
        open_channel(address)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "http://[::1]:1", "https://mesh.example", "http://mesh/"])
async def test_an_address_may_have_a_scheme(address: str) -> None:
    await open_channel(address).close()


def test_patience_grows_and_is_bounded() -> None:
    for lost_count in range(20):
        longest_s = min(RECONNECT_AFTER_S * 2**lost_count, RECONNECT_AFTER_MAX_S)
        pauses_s = [backoff_s(lost_count) for _ in range(50)]
        assert all(longest_s / 2 <= pause_s <= longest_s for pause_s in pauses_s)
        assert len(set(pauses_s)) > 1


def test_an_error_tells_all_it_knows() -> None:
    error = CallError(
        code=StatusCode.INVALID_ARGUMENT,
        message="the request is invalid",
        reason="INVALID_REQUEST",
        metadata={"limit": "3"},
        violations=(Violation("model", "is required"),),
    )
    assert str(error) == "INVALID_REQUEST: the request is invalid (limit=3) [model: is required]"
    assert str(CallError(code=StatusCode.UNAVAILABLE, message="no route")) == "UNAVAILABLE: no route"


@pytest.mark.parametrize(
    ("error", "unreachable", "lost"),
    [
        (CallError(code=StatusCode.UNAVAILABLE, message="refused"), True, True),
        (CallError(code=StatusCode.DEADLINE_EXCEEDED, message=""), True, False),
        (CallError(code=StatusCode.UNAVAILABLE, message="", reason="STORE_UNAVAILABLE"), False, True),
        (CallError(code=StatusCode.DEADLINE_EXCEEDED, message="", reason="QUEUE_TIMEOUT"), False, False),
        (CallError(code=StatusCode.INTERNAL, message="Received RST_STREAM with error code 2"), False, True),
        (CallError(code=StatusCode.INTERNAL, message="internal error"), False, False),
    ],
    ids=str,
)
def test_an_error_tells_what_may_help(error: CallError, unreachable: bool, lost: bool) -> None:  # noqa: FBT001
    assert (error.is_unreachable, error.is_connection_lost) == (unreachable, lost)


@pytest.mark.parametrize(
    "credentials",
    [Password("admin", "hunter2"), ClientCredentials("robot", "hunter2"), StaticToken("hunter2")],
    ids=lambda each: type(each).__name__,
)
def test_secrets_do_not_show(credentials: Credentials) -> None:
    assert "hunter2" not in repr(credentials)
