"""Models that need no files."""

import hashlib
from datetime import UTC, datetime

from deploy.local.runtime.ports import Capability, ModelCard
from deploy.local.runtime.wire.replies import Details


def fake_model(
    name: str, *capabilities: Capability, aliases: tuple[str, ...] = (), size_bytes: int = 100_000_000
) -> ModelCard:
    """`name` with its tag."""
    return ModelCard(
        name=name,
        aliases=aliases,
        digest=hashlib.sha256(name.encode()).hexdigest(),
        size_bytes=size_bytes,
        modified_at=datetime(2026, 1, 1, tzinfo=UTC),
        details=Details(
            format="gguf", family="fake", families=["fake"], parameter_size="0", quantization_level="F16"
        ),
        capabilities=capabilities,
        context_length_default=4096,
        info={"general.architecture": "fake", "fake.context_length": 8192},
    )


# Under the names that the embedded runtime serves, so that tests run on either.
CHAT_MODEL = fake_model("smollm2:135m", "completion", "tools", aliases=("smollm2:latest",))
EMBEDDING_MODEL = fake_model("all-minilm:latest", "embedding")
