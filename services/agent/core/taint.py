"""Whether the model may have read what somebody else wrote, and so may write what somebody else wants.

Told by what is stored of the run and its thread alone: whoever goes on with a run finds the same. It never ends: what
a model has read, it may repeat in its own words and in later runs of the thread.
"""

from collections.abc import Collection, Iterable

from services.agent.core.conversation import Message, Role
from services.agent.core.events import Event, StepStarted, ToolCalled, ToolReturned


class Taint:
    """Goes along with the events of one run."""

    def __init__(self, *, run_tools: Collection[str], trusted_tools: Collection[str]) -> None:
        """`run_tools`: of the run; others are never called, and what the model reads of such a call is the mesh's.

        `trusted_tools` return nobody's words but the mesh's and the model's. Any other tool may.
        """
        self._trusted_tools = frozenset(trusted_tools)
        self._foreign_tools = frozenset(run_tools) - self._trusted_tools
        self._foreign_calls: dict[str, bool] = {}
        self._read = False  # So far;
        self._read_before = False  # and when the open step began.

    def add_history(self, messages: Iterable[Message], *, is_cut: bool) -> None:
        """What was said in the thread before. `is_cut`: there was more, and nobody knows what."""
        foreign = any(
            message.role is Role.TOOL and message.tool_name not in self._trusted_tools for message in messages
        )
        self._read = self._read or is_cut or foreign
        self._read_before = self._read_before or is_cut or foreign

    def add(self, event: Event) -> None:
        """The run goes on."""
        match event:
            case StepStarted():
                self._read_before = self._read
            case ToolCalled(call):
                self._foreign_calls[call.call_id] = call.name in self._foreign_tools
            case ToolReturned(call_id=call_id):
                self._read = self._read or self._foreign_calls.get(call_id, True)
            case _:
                pass

    @property
    def is_there(self) -> bool:
        """When the model wrote the calls that are open now: calls of one step do not taint each other."""
        return self._read_before
