"""llama.cpp's HTTP server for one model, as a process of its own: `llama_server.py SETTINGS`.

A process, because unloading then really gives the memory back and a crash takes one model with it. It is
started by runner.py with `-P` and imports nothing of ours. Prints its URL as one line when it is ready.

Settings that llama.cpp would otherwise choose badly for a small machine:
- `cache_ram_mib`: displaced prompts are kept in memory, by default up to 8 GiB of it.
- `n_batch`: how much of a prompt is computed before anything else is looked at: other callers' tokens, and
  whether the caller is still there. 128 costs a tenth of the speed and bounds both to half a second.
"""

import json
import os
import signal
import sys
from typing import TypedDict

PROMPT_CACHE_MIB = 64
BATCH_TOKENS = 128


class Settings(TypedDict):
    model: str  # Path of the GGUF file.
    context_length: int  # Tokens of one request.
    parallel: int
    thread_count: int
    embedding: bool


def main(settings: Settings) -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = settings["model"]
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.api_keys = [os.environ["OLLAMESH_RUNNER_KEY"]]  # Loopback is open to every user of the machine.
    params.n_parallel = settings["parallel"]
    params.n_ctx = settings["context_length"] * settings["parallel"]
    # A text to embed is computed in one go, so it must fit into a batch.
    params.n_batch = params.n_ubatch = params.n_ctx if settings["embedding"] else BATCH_TOKENS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings["thread_count"]
    params.embedding = settings["embedding"]
    params.cache_ram_mib = PROMPT_CACHE_MIB
    params.offline, params.ui, params.verbosity = True, False, 1
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    signal.pause()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
