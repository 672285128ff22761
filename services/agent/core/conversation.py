"""What is said in a thread."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class Role(Enum):
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call that the model wants made. `arguments_json` is the text of a JSON object."""

    call_id: str
    name: str
    arguments_json: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message. `calls` is the assistant's alone, `call_id` and `tool_name` a tool's."""

    role: Role
    content: str
    calls: tuple[ToolCall, ...] = ()
    call_id: str = ""
    tool_name: str = ""


def from_a_question(messages: Sequence[Message]) -> Sequence[Message]:
    """The messages from the first question on: what was cut off before it would be half a turn."""
    starts = (place for place, message in enumerate(messages) if message.role is Role.USER)
    return messages[next(starts, len(messages)) :]
