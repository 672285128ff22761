"""How a run is made, once every default is filled in."""

from dataclasses import dataclass

from services.agent.core.budget import Limits
from services.agent.core.ids import AssistantId
from services.agent.core.pii import PiiRule


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    model: str
    system_prompt: str
    tools: tuple[str, ...]
    first_tool: str  # The only one that the model is offered in its first call; empty forces nothing.
    temperature: float | None
    seed: int | None
    limits: Limits
    response_json_schema: str = ""  # What the answer must keep; empty: it is free text.
    approval_tools: tuple[str, ...] = ()  # Whose every call waits for a person.
    pii_rules: tuple[PiiRule, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """How a run is made, and whose configuration that began with."""

    config: RunConfig
    assistant_id: AssistantId | None = None
    assistant_version: int = 0
