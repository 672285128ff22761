"""How often a call is made: as often as it may be, and no longer than it may take."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from uuid import UUID

import pytest

from services.agent.adapters.pii_detectors import DETECTORS
from services.agent.calling import DOUBT, TRIES_MAX, UNKNOWN, Calling
from services.agent.core.approvals import Decided
from services.agent.core.conversation import ToolCall
from services.agent.core.events import Decision
from services.agent.core.ids import RunId
from services.agent.core.memo import Memo
from services.agent.errors import Waits
from services.agent.ports import CallContext, Effect, ToolResult, ToolSpec
from tests.fakes.agent_parts import PLAIN
from tests.unit.agent_loop_rig import Listener, assignment

RUN = RunId(UUID(int=1))
CALL = ToolCall(call_id="call_1_0", name="act", arguments_json='{"a": 1}')
AWAY = ToolResult(content="it is away", failed=True, may_pass=True)
DONE = ToolResult(content="done", failed=False)


@dataclass
class Act:
    """Gives its results one after the other; at the end, it hangs."""

    effect: Effect = Effect.IDEMPOTENT
    takes_key: bool = False
    results: list[ToolResult] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    arguments: list[Mapping[str, object]] = field(default_factory=list)

    @property
    def spec(self) -> ToolSpec:
        return ToolSpec(
            name="act",
            description="Acts.",
            parameters_json_schema='{"type": "object"}',
            effect=self.effect,
            timeout_s=0.05 if not self.results else 20,
            is_confined=True,
            takes_key=self.takes_key,
        )

    async def call(self, arguments: Mapping[str, object], context: CallContext) -> ToolResult:
        self.keys.append(context.key)
        self.arguments.append(arguments)
        if not self.results:
            await asyncio.Event().wait()
        return self.results.pop(0)


class Desk(Listener):
    """Told of one call."""

    async def tool_returned(
        self, call_id: str, result: ToolResult, *, duration_s: float, remembered: bool = False
    ) -> None:
        self.told.append(f"returned {result.content}")


async def make(act: Act, desk: Desk, *, asked: bool = False) -> ToolResult:
    config = replace(PLAIN, tools=("act",), approval_tools=("act",) if asked else ())
    calling = Calling({"act": act}, problem=lambda _schema, _arguments: None, detectors=DETECTORS)
    return await calling.make(CALL, assignment(config), desk, Memo())


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.agent.calling.PAUSE_S", 0.001)


async def test_what_may_pass_is_tried_again_under_the_same_key() -> None:
    act, desk = Act(results=[AWAY, DONE]), Desk()
    assert await make(act, desk) == DONE
    assert act.keys == [f"{RUN}:call_1_0"] * 2
    assert desk.told == ["returned done"]


async def test_but_a_few_times_only() -> None:
    act = Act(results=[AWAY] * 9)
    assert (await make(act, Desk())).content == AWAY.content
    assert len(act.keys) == TRIES_MAX


@pytest.mark.parametrize("effect", [Effect.STATE_CHANGING, Effect.EXTERNAL])
async def test_what_may_not_be_repeated_is_tried_once(effect: Effect) -> None:
    act, desk = Act(effect=effect, results=[AWAY, DONE]), Desk()
    assert (await make(act, desk)).content == AWAY.content
    assert len(act.keys) == 1
    again = await make(act, desk)  # As after a crash: it is claimed, and nobody knows what came of it.
    assert (again.content, again.failed) == (UNKNOWN, True)
    assert len(act.keys) == 1


async def test_a_tool_that_knows_the_call_by_its_key_may_be_called_again() -> None:
    act, desk = Act(effect=Effect.STATE_CHANGING, takes_key=True, results=[AWAY, DONE, DONE]), Desk()
    assert [await make(act, desk) for _ in range(2)] == [DONE, DONE]
    assert desk.claimed == set()


@pytest.mark.parametrize(
    ("effect", "said"),
    [
        (Effect.NONE, "The tool did not answer within 0.05 s."),
        (Effect.EXTERNAL, f"The tool did not answer within 0.05 s. {DOUBT}"),
    ],
)
async def test_a_tool_that_hangs_fails_in_its_time(effect: Effect, said: str) -> None:
    async with asyncio.timeout(20):
        result = await make(Act(effect=effect), Desk())
    assert (result.content, result.failed) == (said, True)


async def test_a_person_is_waited_for_and_then_obeyed() -> None:
    act, desk = Act(effect=Effect.EXTERNAL, results=[DONE]), Desk()
    with pytest.raises(Waits):
        await make(act, desk, asked=True)
    assert act.keys == []
    desk.decisions[CALL.call_id] = Decided(decision=Decision.EDITED, user_id="ann", arguments_json='{"a": 2}')
    result = await make(act, desk, asked=True)
    assert result.content.endswith("done")
    assert act.arguments == [{"a": 2}]
    # Whatever the rules say by now: what was asked is answered.
    desk.decisions[CALL.call_id] = Decided(decision=Decision.REJECTED, user_id="ann", reason="no")
    assert (await make(act, desk)).failed
    assert len(act.keys) == 1
