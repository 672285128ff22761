"""What a tool writes and returns, as it may be told: without the personal data that the run's rules keep out."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from services.agent.core.events import Channel
from services.agent.core.pii import Detectors, PiiRule, Redactor
from services.agent.core.text_filter import filtered
from services.agent.ports import ToolResult

Write = Callable[[Channel, str], Awaitable[None]]


class ToolTexts:
    """Of one call. Everything raises PiiBlocked where a rule says so."""

    def __init__(self, rules: Sequence[PiiRule], detectors: Detectors, write: Write) -> None:
        self._rules, self._detectors, self._write = rules, detectors, write
        self._written: dict[Channel, Redactor] = {}

    async def write(self, channel: Channel, text: str) -> None:
        """The tool writes."""
        if not self._rules:
            await self._write(channel, text)
            return
        if channel not in self._written:
            self._written[channel] = Redactor(self._rules, self._detectors)
        await self._show(channel, self._written[channel].feed(text))

    async def end(self) -> None:
        """It writes no more: what was held back may be shown."""
        for channel, redactor in self._written.items():
            await self._show(channel, redactor.end())
        self._written.clear()

    def cleaned(self, result: ToolResult) -> ToolResult:
        """What it returned."""
        if not self._rules:
            return result
        return replace(result, content=filtered(result.content, Redactor(self._rules, self._detectors)))

    async def _show(self, channel: Channel, text: str) -> None:
        if text:
            await self._write(channel, text)
