"""Makes the calls of a model: what policy lets be made, each as often as it may be.

A call whose result is known is not made again, whoever asked for it. One whose result was lost on its way is made again
only if that changes nothing: the others are claimed, and that is committed, before they begin. A failure that passes is
tried again a few times, again only if that changes nothing.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass

from services.agent.agents import Assignment, Recorder
from services.agent.core.approvals import arguments_to_call_with, told_to_model
from services.agent.core.conversation import ToolCall
from services.agent.core.events import Channel
from services.agent.core.policy import Allow, Ask, Deny, Verdict
from services.agent.errors import Waits
from services.agent.ports import CallContext, Tool, ToolResult

TRIES_MAX = 3
PAUSE_S = 0.2  # Before the second try; each that follows waits twice as long.
UNKNOWN = "It is not known whether this call took effect: the service was interrupted while it ran. Do not repeat it."


@dataclass(frozen=True, slots=True)
class Calling:
    """One for all runs; whatever is of one run is in its assignment and its recorder."""

    tools: Mapping[str, Tool]

    async def make(self, call: ToolCall, assignment: Assignment, recorder: Recorder) -> ToolResult:
        """What the model reads of the call. Raises Waits if a person has to decide first."""
        if (known := recorder.returned(call.call_id)) is not None:
            return ToolResult(content=known.content, failed=known.failed)
        began_s = asyncio.get_running_loop().time()
        result = await self._result(call, assignment, recorder)
        duration_s = asyncio.get_running_loop().time() - began_s
        await recorder.tool_returned(call.call_id, result, duration_s=duration_s)
        return result

    async def _result(self, call: ToolCall, assignment: Assignment, recorder: Recorder) -> ToolResult:
        arguments: Mapping[str, object] | None = json.loads(call.arguments_json)
        verdict, told = self._verdict(call, assignment), ""
        # A question that was asked has to be answered, even if by other rules it would not be asked any more.
        if isinstance(verdict, Ask) or recorder.is_asked(call.call_id):
            decided = await recorder.question(call, verdict.reason if isinstance(verdict, Ask) else "")
            if decided is None:
                raise Waits
            arguments, told = arguments_to_call_with(call, decided), told_to_model(decided)
        if isinstance(verdict, Deny):
            return ToolResult(content=verdict.reason, failed=True)
        if arguments is None:
            return ToolResult(content=told, failed=True)
        tool = self.tools[call.name]
        if not tool.spec.is_repeatable and not await recorder.claim(call.call_id):
            return ToolResult(content=told + UNKNOWN, failed=True)
        result = await self._tried(tool, call, arguments, assignment, recorder)
        return ToolResult(content=told + result.content, failed=result.failed)

    def _verdict(self, call: ToolCall, assignment: Assignment) -> Verdict:
        allowed = assignment.config.tools
        if call.name not in allowed:
            return Deny(f"There is no tool {call.name}. Tools: {', '.join(allowed)}.")
        return Allow()

    async def _tried(
        self,
        tool: Tool,
        call: ToolCall,
        arguments: Mapping[str, object],
        assignment: Assignment,
        recorder: Recorder,
    ) -> ToolResult:
        """The result, of a few tries if trying again changes nothing."""
        pause_s, tries_max = PAUSE_S, TRIES_MAX if tool.spec.is_repeatable else 1
        for _ in range(tries_max - 1):
            result = await self._once(tool, call, arguments, assignment, recorder)
            if not result.may_pass:
                return result
            await asyncio.sleep(pause_s)
            pause_s *= 2
        return await self._once(tool, call, arguments, assignment, recorder)

    async def _once(
        self,
        tool: Tool,
        call: ToolCall,
        arguments: Mapping[str, object],
        assignment: Assignment,
        recorder: Recorder,
    ) -> ToolResult:
        async def write(channel: Channel, text: str) -> None:
            await recorder.tool_wrote(call.call_id, channel, text)

        now_s = asyncio.get_running_loop().time
        deadline_s = min(assignment.deadline_s, now_s() + tool.spec.timeout_s)
        context = CallContext(
            deadline_s=deadline_s,
            owner=assignment.owner,
            thread_id=assignment.thread_id,
            key=f"{assignment.run_id}:{call.call_id}",
            write=write,
            is_handed_over=assignment.is_handed_over,
            token=await assignment.token(),
        )
        try:
            async with asyncio.timeout_at(deadline_s):
                return await tool.call(arguments, context)
        except TimeoutError:
            if now_s() < deadline_s:
                raise  # The tool's own, which it should not let out.
            return ToolResult(
                content=f"The tool did not answer within {tool.spec.timeout_s:g} s.", failed=True
            )
