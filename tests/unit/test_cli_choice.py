"""Which model a command uses when nobody says."""

import pytest
from ollamesh.client import runs
from ollamesh.client.fleet import Capability, Model

from clients.cli.choice import EMBEDDED_MODEL, TOOL, best_of, config_for


def model(name: str, *can: Capability, size_bytes: int = 1, loaded: bool = False) -> Model:
    return Model(
        name=name,
        digest="",
        size_bytes=size_bytes,
        family="",
        parameter_size="",
        quantization="",
        capabilities=can,
        context_token_count_max=0,
        context_token_count=0,
        vram_bytes=0,
        instances=("one",),
        resident_instances=("one",) if loaded else (),
        pinned=False,
    )


EMBEDDED = model(EMBEDDED_MODEL, "completion", "tools", loaded=True)
EMBEDDING = model("minilm", "embedding")


@pytest.mark.parametrize(
    ("models", "best"),
    [
        ([], None),
        ([EMBEDDING], None),
        ([EMBEDDING, EMBEDDED], EMBEDDED_MODEL),
        (
            [EMBEDDED, model("of an older Ollama, which does not say")],
            "of an older Ollama, which does not say",
        ),
        ([EMBEDDED, model("big", "completion", size_bytes=9)], "big"),
        ([model("a", "completion", loaded=True), model("b", "completion", "tools")], "b"),
        ([model("a", "completion"), model("b", "completion", loaded=True, size_bytes=9)], "b"),
        ([model("a", "completion", size_bytes=9), model("b", "completion")], "b"),
        ([model("b", "completion"), model("a", "completion")], "a"),
    ],
)
def test_the_most_capable_model_at_hand_is_chosen(models: list[Model], best: str | None) -> None:
    found = best_of(models)
    assert (found.name if found else None) == best


def test_only_the_embedded_model_is_led_by_the_hand() -> None:
    assert config_for("llama3.2:3b") == runs.Config(model="llama3.2:3b", tools=(TOOL,))
    led = config_for(EMBEDDED_MODEL)
    assert (led.first_tool, led.temperature) == (TOOL, 0)
    assert led.seed is not None
    assert led.step_count_max is not None
