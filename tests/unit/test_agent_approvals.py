"""What a decision is bound to."""

import hashlib
import json
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.agent.core.approvals import (
    EXPIRED,
    Decided,
    arguments_to_call_with,
    asked_in,
    call_hash,
    check_hash,
    hash_of,
    is_too_late,
    resolved,
    told_to_model,
)
from services.agent.core.conversation import ToolCall
from services.agent.core.events import (
    ApprovalRequested,
    ApprovalResolved,
    Decision,
    Event,
    StepStarted,
    ToolCalled,
)
from services.agent.errors import ApprovalMismatch, ApprovalNotFound

CALL = ToolCall(call_id="call_1_0", name="send", arguments_json='{"to": "bob", "n": 1}')
OTHER = ToolCall(call_id="call_1_1", name="send", arguments_json='{"to": "eve", "n": 1}')
APPROVED = Decided(decision=Decision.APPROVED, user_id="ann")
EDITED = Decided(decision=Decision.EDITED, user_id="ann", arguments_json='{"to": "carl"}')
REJECTED = Decided(decision=Decision.REJECTED, user_id="ann", reason="not now")


def question(call: ToolCall = CALL, **changes: object) -> ApprovalRequested:
    fields: dict[str, object] = {
        "approval_id": uuid4(),
        "call_id": call.call_id,
        "call_hash": hash_of(call),
        "reason": "",
        "expire_time_s": 100.0,
    }
    return ApprovalRequested(**{**fields, **changes})  # type: ignore[arg-type]


def test_the_hash_is_as_the_api_says() -> None:
    text = b'{"arguments":{"n":1,"to":"b\\u00f6b"},"tool":"send"}'

    assert call_hash("send", {"to": "böb", "n": 1}) == hashlib.sha256(text).digest()
    assert hash_of(CALL) == call_hash("send", {"n": 1, "to": "bob"}), "not its text, but what it says"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
calls = st.tuples(st.text(max_size=8), st.dictionaries(st.text(max_size=4), json_values, max_size=3))


@given(calls, calls)
def test_calls_have_the_same_hash_only_if_they_are_the_same(
    one: tuple[str, dict[str, object]], other: tuple[str, dict[str, object]]
) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (call_hash(*one) == call_hash(*other)) is same


def test_a_question_is_found_with_its_call() -> None:
    asked, second = question(), question(OTHER)
    told: list[Event] = [StepStarted(1), ToolCalled(CALL), ToolCalled(OTHER), asked, second]
    assert asked_in(told, second.approval_id) == (second, OTHER)
    for unknown in (uuid4(), question().approval_id):
        with pytest.raises(ApprovalNotFound):
            asked_in(told, unknown)
    with pytest.raises(ApprovalNotFound):
        asked_in([asked], asked.approval_id)


@pytest.mark.parametrize("changed", ["given", "asked", "called"])
def test_a_hash_that_differs_anywhere_is_refused(changed: str) -> None:
    check_hash(hash_of(CALL), question(), CALL)
    with pytest.raises(ApprovalMismatch):
        check_hash(
            hash_of(OTHER if changed == "given" else CALL),
            question(call_hash=hash_of(OTHER if changed == "asked" else CALL)),
            OTHER if changed == "called" else CALL,
        )


def test_a_question_lapses_at_its_time() -> None:
    assert [is_too_late(question(), now_s=now_s) for now_s in (99.9, 100.0)] == [False, True]


def test_what_is_called_and_told_of_a_decision() -> None:
    assert arguments_to_call_with(CALL, APPROVED) == {"to": "bob", "n": 1}
    assert arguments_to_call_with(CALL, EDITED) == {"to": "carl"}
    assert arguments_to_call_with(CALL, REJECTED) is None
    assert arguments_to_call_with(CALL, EXPIRED) is None
    assert told_to_model(APPROVED) == ""
    assert '{"to": "carl"}' in told_to_model(EDITED)
    assert told_to_model(REJECTED).endswith("The person says: not now")
    assert "in time" in told_to_model(EXPIRED)
    asked = question()
    assert resolved(asked, EDITED) == ApprovalResolved(
        approval_id=asked.approval_id,
        decision=Decision.EDITED,
        user_id="ann",
        arguments_json='{"to": "carl"}',
    )
