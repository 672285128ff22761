"""How a run is made, once every default is filled in."""

from dataclasses import dataclass

from services.agent.core.budget import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    model: str
    system_prompt: str
    tools: tuple[str, ...]
    first_tool: str  # The only one that the model is offered in its first call; empty forces nothing.
    temperature: float | None
    seed: int | None
    limits: Limits
