"""A run's own configuration over that of its assistant: what is set replaces what was set, field by field."""

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from ollamesh.agent.v1.assistant_pb2 import RunConfig


def merged(assistants: RunConfig, own: RunConfig) -> RunConfig:
    """What both make, nothing filled in.

    Limits are replaced one by one. A run with tools of its own keeps what its assistant says of tools as far as it
    has them.
    """
    result = RunConfig()
    result.CopyFrom(assistants)
    _replace(result, own)
    if own.tools:
        if not own.first_tool and result.first_tool not in own.tools:
            result.ClearField("first_tool")
        if not own.approval_tools:
            left = [name for name in result.approval_tools if name in own.tools]
            del result.approval_tools[:]
            result.approval_tools.extend(left)
    return result


def _replace(result: Message, own: Message) -> None:
    for field, value in own.ListFields():
        if field.name == "limits":
            _replace(getattr(result, field.name), value)
        elif field.is_repeated:
            result.ClearField(field.name)
            getattr(result, field.name).extend(value)
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            getattr(result, field.name).CopyFrom(value)
        else:
            setattr(result, field.name, value)
