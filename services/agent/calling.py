"""Makes the calls of a model: what policy lets be made, each as often as it may be.

A call whose result is known is not made again, whoever asked for it. One whose result was lost on its way is made again
only if that changes nothing: the others are claimed, and that is committed, before they begin. A failure that passes is
tried again a few times, again only if that changes nothing.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from services.agent.agents import Assignment, Recorder
from services.agent.core.approvals import arguments_to_call_with, told_to_model
from services.agent.core.conversation import Role, ToolCall
from services.agent.core.events import Channel
from services.agent.core.memo import Memo
from services.agent.core.pii import Detectors
from services.agent.core.policy import Ask, Deny, Rules, Situation, Verdict, decide
from services.agent.core.writing import UNREADABLE
from services.agent.errors import Waits
from services.agent.ports import CallContext, Effect, Tool, ToolResult, ToolSpec
from services.agent.tool_texts import ToolTexts
from services.common.tokens import role_of

TRIES_MAX = 3
NO_RULES = Rules()
PAUSE_S = 0.2  # Before the second try; each that follows waits twice as long.
WRONG = "The arguments do not keep the tool's schema, so the call was not made:"
NOT_JSON = "they are no JSON object"
UNKNOWN = "It is not known whether this call took effect: the service was interrupted while it ran. Do not repeat it."
DOUBT = "It is not known whether the call took effect. Do not repeat it."


# What is wrong with arguments, in words for the model that wrote them; None if nothing is. Given a JSON Schema as text.
Problem = Callable[[str, Mapping[str, object]], str | None]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A call that is to be made, and of which run it is."""

    call: ToolCall
    assignment: Assignment
    recorder: Recorder
    memo: Memo
    texts: ToolTexts


@dataclass(frozen=True, slots=True)
class Calling:
    """One for all runs; whatever is of one run is in its assignment, its recorder and its memo."""

    tools: Mapping[str, Tool]
    problem: Problem
    detectors: Detectors
    rules: Rules = NO_RULES

    async def make(
        self, call: ToolCall, assignment: Assignment, recorder: Recorder, memo: Memo
    ) -> ToolResult:
        """What the model reads of the call. Raises PiiBlocked, or Waits if a person has to decide first."""
        if (known := recorder.returned(call.call_id)) is not None:
            return ToolResult(content=known.content, failed=known.failed)

        async def write(channel: Channel, text: str) -> None:
            await recorder.tool_wrote(call.call_id, channel, text)

        texts = ToolTexts(assignment.config.pii_rules, self.detectors, write)
        began_s = asyncio.get_running_loop().time()
        result, is_remembered = await self._result(_Wanted(call, assignment, recorder, memo, texts))
        await texts.end()
        result = texts.cleaned(result)
        duration_s = asyncio.get_running_loop().time() - began_s
        await recorder.tool_returned(call.call_id, result, duration_s=duration_s, remembered=is_remembered)
        return result

    async def _result(self, wanted: _Wanted) -> tuple[ToolResult, bool]:
        """What it returns, and whether that was remembered."""
        call, recorder = wanted.call, wanted.recorder
        wished: Mapping[str, object] = json.loads(call.arguments_json)
        arguments: Mapping[str, object] | None = wished
        verdict, told = await self._verdict(call, wished, wanted), ""
        # A question that was asked has to be answered, even if by other rules it would not be asked any more.
        if isinstance(verdict, Ask) or recorder.is_asked(call.call_id):
            decided = await recorder.question(call, verdict.reason if isinstance(verdict, Ask) else "")
            if decided is None:
                raise Waits
            arguments, told = arguments_to_call_with(call, decided), told_to_model(decided)
        if isinstance(verdict, Deny):
            return ToolResult(content=verdict.reason, failed=True), False
        if arguments is None:
            return ToolResult(content=told, failed=True), False
        if not told and (content := wanted.memo.recall(call.name, arguments)) is not None:
            return ToolResult(content=content, failed=False), True
        tool = self.tools[call.name]
        if not tool.spec.is_repeatable and not await recorder.claim(call.call_id):
            return ToolResult(content=told + UNKNOWN, failed=True), False
        result = await self._noted(tool, arguments, wanted)
        return ToolResult(content=told + result.content, failed=result.failed), False

    async def _verdict(self, call: ToolCall, arguments: Mapping[str, object], wanted: _Wanted) -> Verdict:
        tool, config = self.tools.get(call.name), wanted.assignment.config
        situation = Situation(
            tools=config.tools,
            approval_tools=config.approval_tools,
            # What the user may is asked anew for each call, where rules ask for it.
            role=role_of(await wanted.assignment.token()) if self.rules.refused else "",
            is_tainted=wanted.recorder.is_tainted,
            user_texts=[said.content for said in wanted.assignment.messages if said.role is Role.USER],
            rules=self.rules,
        )
        verdict = decide(call.name, arguments, tool=tool.spec if tool else None, situation=situation)
        if tool is None or isinstance(verdict, Deny):
            return verdict
        problem = self._problem(tool.spec, arguments)  # What could not be called is not asked about.
        return verdict if problem is None else Deny(f"{WRONG} {problem}.")

    def _problem(self, spec: ToolSpec, arguments: Mapping[str, object]) -> str | None:
        return (
            NOT_JSON
            if set(arguments) == {UNREADABLE}
            else self.problem(spec.parameters_json_schema, arguments)
        )

    async def _noted(self, tool: Tool, arguments: Mapping[str, object], wanted: _Wanted) -> ToolResult:
        """The result, which the run remembers as long as it may hold."""
        is_pure = tool.spec.effect is Effect.NONE
        ticket = wanted.memo.begin(tool.spec.name, arguments, is_pure=is_pure)
        failed = True
        try:
            result = await self._tried(tool, arguments, wanted)
            failed = result.failed
        finally:
            wanted.memo.end(ticket, "" if failed else result.content, failed=failed)
        return result

    async def _tried(self, tool: Tool, arguments: Mapping[str, object], wanted: _Wanted) -> ToolResult:
        """The result, of a few tries if trying again changes nothing."""
        pause_s, tries_max = PAUSE_S, TRIES_MAX if tool.spec.is_repeatable else 1
        for _ in range(tries_max - 1):
            result = await self._once(tool, arguments, wanted)
            if not result.may_pass:
                return result
            await asyncio.sleep(pause_s)
            pause_s *= 2
        return await self._once(tool, arguments, wanted)

    async def _once(self, tool: Tool, arguments: Mapping[str, object], wanted: _Wanted) -> ToolResult:
        assignment = wanted.assignment
        now_s = asyncio.get_running_loop().time
        deadline_s = min(assignment.deadline_s, now_s() + tool.spec.timeout_s)
        context = CallContext(
            deadline_s=deadline_s,
            owner=assignment.owner,
            thread_id=assignment.thread_id,
            key=f"{assignment.run_id}:{wanted.call.call_id}",
            write=wanted.texts.write,
            is_handed_over=assignment.is_handed_over,
            token=await assignment.token(),
        )
        try:
            with wanted.recorder.calling(wanted.call.call_id):
                async with asyncio.timeout_at(deadline_s):
                    return await tool.call(arguments, context)
        except TimeoutError:
            if now_s() < deadline_s:
                raise  # The tool's own, which it should not let out.
            late = f"The tool did not answer within {tool.spec.timeout_s:g} s."
            return ToolResult(content=late if tool.spec.is_repeatable else f"{late} {DOUBT}", failed=True)
