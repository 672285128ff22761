"""An Ollama that does as it is told, on a real socket.

    async with FakeOllama() as fake:
        fake.script("Hel", "lo")                  # The next completion: two tokens, then done.
        fake.script("Hel", gate, Cut())           # One token, wait for `gate`, then hang up.
        fake.script(Refuse(503, "server busy"))   # No completion at all.
        ...                                       # Talk to fake.url; look at fake.requests.

Its routes, shapes, loading and slots are the embedded runtime's own code, and tests/contract holds both to
the same behaviour; only what a model would write comes from the script. Without one it echoes (`echo.py`).

Given a machine it also takes the time that Ollama would take, and makes whom Ollama would make wait:

    specs = {"tiny": ModelSpec(name="tiny", vram_bytes=GIB, load_s=0.2, prefill_tokens_per_s=5000, ...)}
    async with FakeOllama(machine=MachineSpec(name="gpu", vram_bytes=10 * GIB, parallel=4), specs=specs) as fake:
        fake.machine.load_factor = 10             # Slow loads; also deaf_in_prefill, refusing.
        ...                                       # Then fake.waited_inside_count, fake.reload_count, ...

Rules and arithmetic are those of the simulator's machine (services/inference/simulation), on the event loop's
clock. Scripts then say what is said, the machine when. A user's `[write 20]` and `[read 900]` set the tokens of
the answer and of the message, so that a benchmark chooses both. In either mode: `wedge` and `restart`, `refuse`
and `accept`.
`python -m tests.fakes.fake_ollama --listen HOST:PORT` serves the same from a process of its own.
"""

from services.inference.simulation.parts import MachineSpec, ModelSpec
from tests.fakes.fake_ollama.models import CHAT_MODEL, EMBEDDING_MODEL, fake_model
from tests.fakes.fake_ollama.script import (
    Call,
    Cut,
    Deaf,
    Duplicate,
    DuplicateEnd,
    End,
    Fail,
    Hang,
    Malformed,
    Refuse,
    Step,
    Think,
)
from tests.fakes.fake_ollama.server import FakeOllama, Outcome, Recorded

__all__ = [
    "CHAT_MODEL",
    "EMBEDDING_MODEL",
    "Call",
    "Cut",
    "Deaf",
    "Duplicate",
    "DuplicateEnd",
    "End",
    "Fail",
    "FakeOllama",
    "Hang",
    "MachineSpec",
    "Malformed",
    "ModelSpec",
    "Outcome",
    "Recorded",
    "Refuse",
    "Step",
    "Think",
    "fake_model",
]
