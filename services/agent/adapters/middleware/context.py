"""What differs between runs, which share one graph."""

from dataclasses import dataclass, field

from services.agent.agents import Assignment, Recorder
from services.agent.core.memo import Memo
from services.agent.core.summary import Summary


@dataclass(slots=True)
class RunContext:
    assignment: Assignment
    recorder: Recorder
    waiting: list[str] = field(default_factory=list)  # Calls about which people were asked.
    memo: Memo = field(default_factory=Memo)
    summary: Summary | None = None  # What older messages are read as; None: nobody has looked yet.
