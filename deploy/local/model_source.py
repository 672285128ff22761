"""Where the models come from: a given Ollama, one that runs here, one that we run, or our own runtime."""

import http.client
import shutil
from dataclasses import dataclass
from enum import StrEnum

from deploy.local.ports import command_of_listener
from deploy.local.settings import DEFAULT_PORTS, Settings

OLLAMA_PORT = DEFAULT_PORTS["runtime"]
ANSWER_WITHIN_S = 1.0
RUNTIME_MODULE = "deploy.local.runtime"


class SourceKind(StrEnum):
    GIVEN = "given"  # By OLLAMA_HOSTS.
    OLLAMA = "ollama"  # Runs on this machine, not ours.
    OWNED = "owned"  # One `ollama serve` for each GPU, run by the inference service.
    SUPERVISED = "supervised"  # `ollama serve`, a part of this stack.
    EMBEDDED = "embedded"  # Our runtime, a part of this stack.


@dataclass(frozen=True, slots=True)
class ModelSource:
    kind: SourceKind
    hosts: str  # For OLLAMA_HOSTS; empty if this stack serves.

    program: str = ""  # Of a supervised Ollama.
    gpus: str = ""  # For OLLAMA_GPUS; empty if the inference service runs no Ollama itself.

    @property
    def is_part(self) -> bool:
        """Whether a part of its own serves the models."""
        return self.kind in {SourceKind.SUPERVISED, SourceKind.EMBEDDED}

    @property
    def is_ours(self) -> bool:
        """Whether this stack listens on the runtime's port."""
        return self.is_part or self.gpus != ""


def find_models(settings: Settings) -> ModelSource:
    if settings.ollama_hosts:
        return ModelSource(SourceKind.GIVEN, settings.ollama_hosts, gpus=settings.ollama_gpus)
    if settings.look_for_ollama:
        # Another stack's runtime is no Ollama to rely on: it goes when that stack does.
        if answers_like_ollama(OLLAMA_PORT) and RUNTIME_MODULE not in command_of_listener(OLLAMA_PORT):
            return ModelSource(SourceKind.OLLAMA, f"http://127.0.0.1:{OLLAMA_PORT}")
        if settings.ollama_gpus:
            return ModelSource(SourceKind.OWNED, "", gpus=settings.ollama_gpus)
        if program := shutil.which("ollama", path=settings.inherited.get("PATH")):
            return ModelSource(SourceKind.SUPERVISED, "", program)
    return ModelSource(SourceKind.EMBEDDED, "")


def answers_like_ollama(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_WITHIN_S)
    try:
        connection.request("GET", "/")
        return b"Ollama is running" in connection.getresponse().read(1000)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
