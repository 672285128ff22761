"""An Ollama that does as it is told, on a real socket.

    async with FakeOllama() as fake:
        fake.script("Hel", "lo")                  # The next completion: two tokens, then done.
        fake.script("Hel", gate, Cut())           # One token, wait for `gate`, then hang up.
        fake.script(Refuse(503, "server busy"))   # No completion at all.
        ...                                       # Talk to fake.url; look at fake.requests.

Its routes, shapes, loading and slots are the embedded runtime's own code, and tests/contract holds both to
the same behaviour; only what a model would write comes from the script. Without one it echoes (`echo.py`).
`python -m tests.fakes.fake_ollama --listen HOST:PORT` serves the same from a process of its own.
"""

from tests.fakes.fake_ollama.models import CHAT_MODEL, EMBEDDING_MODEL, fake_model
from tests.fakes.fake_ollama.script import Call, Cut, End, Fail, Hang, Malformed, Refuse, Step, Think
from tests.fakes.fake_ollama.server import FakeOllama, Outcome, Recorded

__all__ = [
    "CHAT_MODEL",
    "EMBEDDING_MODEL",
    "Call",
    "Cut",
    "End",
    "Fail",
    "FakeOllama",
    "Hang",
    "Malformed",
    "Outcome",
    "Recorded",
    "Refuse",
    "Step",
    "Think",
    "fake_model",
]
