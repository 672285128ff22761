"""The catalogue's models as Ollama's API shows them."""

from datetime import UTC, datetime
from pathlib import Path

from deploy.local.models.catalog import Kind, Model
from deploy.local.runtime.ports import Capability, ModelCard
from deploy.local.runtime.wire.replies import Details

CAPABILITIES: dict[Kind, tuple[Capability, ...]] = {
    Kind.CHAT: ("completion", "tools"),
    Kind.EMBEDDING: ("embedding",),
}


def card(model: Model, folder: Path) -> ModelCard:
    """Raises OSError if the file is not there."""
    return ModelCard(
        name=model.name,
        aliases=model.aliases,
        digest=model.sha256,
        size_bytes=model.size_bytes,
        modified_at=datetime.fromtimestamp((folder / model.file).stat().st_mtime, UTC),
        details=Details(
            format="gguf",
            family=model.family,
            families=[model.family],
            parameter_size=model.parameter_size,
            quantization_level=model.quantization,
        ),
        capabilities=CAPABILITIES[model.kind],
        context_length_default=model.context_length_default,
        info=model.info,
        template=model.template,
        licence=f"{model.licence}, by {model.publisher}: {model.source}",
    )
