"""What the fleet has, as one Ollama would list it."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from services.inference.core.allowed import Allowed
from services.inference.core.ledger import Card, InstanceView, Model, Resident
from services.inference.ports import Progress

Json = dict[str, object]
_NEVER = datetime(2318, 1, 1, tzinfo=UTC)  # What Ollama says of a model that stays: some 292 years from now.
_UNKNOWN = datetime(1, 1, 1, tzinfo=UTC)  # Go's zero time.


def tags(models: Iterable[Model]) -> Json:
    """Return the answer of `tags`: the model changed last first, as Ollama has it."""
    cards = sorted((model.card for model in models), key=_modified_at, reverse=True)
    return {"models": [_tag(card) for card in cards]}


def running(views: Iterable[InstanceView], allowed: Allowed) -> Json:
    """Return the answer of `ps`. A model that is loaded in several places stands there once, with what it takes most."""
    found: dict[str, tuple[Card, list[Resident]]] = {}
    for view in views:
        for model_key, resident in view.residents.items():
            card = view.cards.get(model_key)
            if card is not None and view.ready and allowed.names(model_key):
                found.setdefault(model_key, (card, []))[1].append(resident)
    rows = [_running(card, residents) for card, residents in found.values()]
    return {"models": [row for _, row in sorted(rows, key=lambda row: row[0], reverse=True)]}


def version(views: Iterable[InstanceView]) -> Json:
    """Return the answer of `version`: the oldest one in the fleet, for all of it can do what that one can."""
    versions = [view.report.version for view in views if view.report.version]
    return {"version": min(versions, key=_numbers, default="0.0.0")}


def step(progress: Progress) -> Json:
    """Return a line of `pull` or `create`."""
    optional = {
        "digest": progress.digest,
        "total": progress.total_bytes,
        "completed": progress.completed_bytes,
    }
    return {"status": progress.status, **{name: value for name, value in optional.items() if value}}


def _tag(card: Card) -> Json:
    return {
        "name": card.name,
        "model": card.name,
        "modified_at": _modified_at(card),
        "size": card.size_bytes,
        "digest": card.digest,
        "details": _details(card),
        "capabilities": sorted(card.capabilities),
    }


def _details(card: Card, quantization: str = "") -> Json:
    return {
        "parent_model": "",
        "format": "gguf",
        "family": card.family,
        "families": [card.family] if card.family else [],
        "parameter_size": card.parameter_size,
        "quantization_level": quantization or card.quantization,
    }


def _running(card: Card, residents: Sequence[Resident]) -> tuple[datetime, Json]:
    """The row, and what rows are sorted by."""
    expires_at = max(resident.expires_at or _NEVER for resident in residents)
    row: Json = {
        "name": card.name,
        "model": card.name,
        "size": max(resident.size_bytes for resident in residents),
        "digest": card.digest,
        "details": _details(card, residents[0].quantization),
        "expires_at": expires_at,
        "size_vram": max(resident.vram_bytes for resident in residents),
        "context_length": min(resident.context_token_count for resident in residents),
    }
    return expires_at, row


def _modified_at(card: Card) -> datetime:
    return card.modified_at or _UNKNOWN


def _numbers(version: str) -> list[int]:
    """`0.12.3-rc1` as what it can be compared by."""
    plain = version.partition("-")[0]
    return [int(part) for part in plain.split(".") if part.isascii() and part.isdigit()]
