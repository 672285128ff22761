"""Models of Ollama servers, and requests for them."""

from dataclasses import replace

from services.inference.simulation.machine import Machine
from services.inference.simulation.parts import (
    Block,
    Event,
    Finished,
    MachineSpec,
    ModelSpec,
    Request,
    RunnerOptions,
)

GIB = 2**30
SMALL = ModelSpec(
    name="small", vram_bytes=4 * GIB, load_s=2.0, prefill_tokens_per_s=1000.0, token_s=0.01, batch_cost=0.25
)
MODELS = {
    spec.name: spec
    for spec in (
        SMALL,
        replace(SMALL, name="other", token_s=0.02),
        replace(SMALL, name="third"),
        replace(SMALL, name="large", vram_bytes=9 * GIB, load_s=10.0),
        replace(SMALL, name="single", parallel_max=1),
    )
}
SPEC = MachineSpec(name="gpu", vram_bytes=10 * GIB, parallel=4)
CONTEXT: RunnerOptions = (("num_ctx", 4096),)


def machine(**changes: object) -> Machine:
    return Machine(replace(SPEC, **changes), MODELS)  # type: ignore[arg-type]


def ask(
    id: int,  # noqa: A002
    model: str = "small",
    *,
    prompt: int | tuple[Block, ...] = 100,
    out: int = 10,
    keep_alive_s: float | None = None,
    runner: RunnerOptions = (),
) -> Request:
    """`prompt` tokens that no other prompt begins with, unless they are given."""
    blocks = (Block(f"prompt {id}", prompt),) if isinstance(prompt, int) else prompt
    return Request(
        id=id,
        model=model,
        runner=runner,
        prompt=blocks,
        output_token_count=out,
        keep_alive_s=keep_alive_s,
    )


def drained(made: Machine, until_s: float = 1e6) -> list[Event]:
    """All that happens until then."""
    events: list[Event] = []
    while (at_s := made.next_event_s()) is not None and at_s <= until_s:
        events += made.advance(at_s)
    return events


def finished(events: list[Event]) -> dict[int, Finished]:
    return {event.id: event for event in events if isinstance(event, Finished)}


def warm(*models: str, **changes: object) -> Machine:
    """A machine with models in memory, at time 100."""
    made = machine(keep_alive_s=-1, **changes)
    for id_, model in enumerate(models or ("small",)):
        made.load(model, (), None, id_ * 10.0, -1 - id_)
    made.advance(100.0)
    return made
