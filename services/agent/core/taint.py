"""Whether the model may have read what somebody else wrote, and so may write what somebody else wants.

Told by what is stored of the run and its thread alone: whoever goes on with a run finds the same. It never ends: what
a model has read, it may repeat in its own words and in later runs of the thread.
"""

from collections.abc import Collection, Iterable

from services.agent.core.conversation import Message, Role
from services.agent.core.events import Event, StepStarted, ToolCalled, ToolReturned


class Taint:
    """Goes along with the events of one run."""

    def __init__(self, history: Iterable[Message], *, trusted_tools: Collection[str], is_cut: bool) -> None:
        """`trusted_tools` return nobody's words but the mesh's and the model's. Any other tool may, the unknown too.

        `is_cut`: there was more in the thread than `history` holds, and nobody knows what.
        """
        self._trusted_tools = frozenset(trusted_tools)
        self._tools: dict[str, str] = {}  # By call.
        self._read = is_cut or any(
            message.role is Role.TOOL and message.tool_name not in self._trusted_tools for message in history
        )
        self._read_before = self._read  # The step that is open now.

    def add(self, event: Event) -> None:
        """The run goes on."""
        match event:
            case StepStarted():
                self._read_before = self._read
            case ToolCalled(call):
                self._tools[call.call_id] = call.name
            case ToolReturned(call_id=call_id):
                self._read = self._read or self._tools.get(call_id) not in self._trusted_tools
            case _:
                pass

    @property
    def is_there(self) -> bool:
        """When the model wrote the calls that are open now: calls of one step do not taint each other."""
        return self._read_before
