"""What is told while instances fetch a model, as Python values."""

from dataclasses import dataclass
from typing import TypeAlias

from ollamesh.client.fleet import Model, model_of
from ollamesh.inference.v1.model_pb2 import PullModelResponse


@dataclass(frozen=True, slots=True, kw_only=True)
class PullProgress:
    """How far one instance is, in its own words. `digest` names the layer that is fetched; empty between layers."""

    instance: str
    status: str
    digest: str
    total_bytes: int
    completed_bytes: int


@dataclass(frozen=True, slots=True)
class Pulled:
    """Every instance has it; the last event."""

    model: Model


Event: TypeAlias = PullProgress | Pulled


def event_of(response: PullModelResponse) -> Event | None:
    """Return what a response tells; None for what is newer than this client."""
    match response.WhichOneof("event"):
        case "progress":
            progress = response.progress
            return PullProgress(
                instance=progress.instance,
                status=progress.status,
                digest=progress.digest,
                total_bytes=progress.total_bytes,
                completed_bytes=progress.completed_bytes,
            )
        case "done":
            return Pulled(model_of(response.done.model))
        case _:
            return None
