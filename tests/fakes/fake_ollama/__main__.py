"""`python -m tests.fakes.fake_ollama --listen HOST:PORT [--token-ms N]`, with Ollama's own knobs.

With `--model` it has a machine: `--vram-gib 24 --model tiny,vram_gib=1,load_s=0.5,prefill=5000,token_ms=5`.
"""

import argparse
import asyncio
import os
import signal
import sys

from deploy.local.runtime.config import Config
from deploy.local.runtime.wire.names import full_name
from services.common.config import Environment
from services.inference.simulation.parts import MachineSpec, ModelSpec
from tests.fakes.fake_ollama.models import CHAT_MODEL, EMBEDDING_MODEL, fake_model
from tests.fakes.fake_ollama.server import FakeOllama

GIB = 2**30
MODEL = {
    "vram_gib": 1.0,
    "load_s": 1.0,
    "prefill": 5000.0,
    "token_ms": 10.0,
    "batch_cost": 0.2,
    "parallel": 0.0,
}


def model_spec(text: str) -> ModelSpec:
    """`NAME[,KEY=VALUE]...`, with the keys of MODEL, where the defaults are."""
    name, *pairs = text.split(",")
    given = dict(pair.split("=", 1) for pair in pairs)
    if unknown := given.keys() - MODEL.keys():
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}")
    values = MODEL | {key: float(value) for key, value in given.items()}
    return ModelSpec(
        name=full_name(name),
        vram_bytes=int(values["vram_gib"] * GIB),
        load_s=values["load_s"],
        prefill_tokens_per_s=values["prefill"],
        token_s=values["token_ms"] / 1000,
        batch_cost=values["batch_cost"],
        parallel_max=int(values["parallel"]),
    )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fakes.fake_ollama")
    parser.add_argument("--listen", required=True, metavar="HOST:PORT")
    parser.add_argument("--token-ms", type=float, default=0.0, help="pause before each token")
    parser.add_argument(
        "--model",
        type=model_spec,
        action="append",
        default=[],
        metavar="NAME[,KEY=VALUE]...",
        help=f"of a machine; keys and defaults: {MODEL}",
    )
    parser.add_argument("--vram-gib", type=float, default=24.0, help="of the machine")
    parser.add_argument(
        "--loaded-max", type=int, default=0, help="models in memory; 0: as many as Ollama allows"
    )
    return parser.parse_args()


def fake_ollama(arguments: argparse.Namespace, config: Config) -> FakeOllama:
    if not arguments.model:
        return FakeOllama(
            parallel=config.parallel,
            waiting_max=config.waiting_max,
            keep_alive_s=config.keep_alive_s,
            token_s=arguments.token_ms / 1000,
        )
    machine = MachineSpec(
        name=arguments.listen,
        vram_bytes=int(arguments.vram_gib * GIB),
        parallel=config.parallel,
        max_queue=config.waiting_max,
        keep_alive_s=config.keep_alive_s,
        loaded_max=arguments.loaded_max,
    )
    known = {card.name: card for card in (CHAT_MODEL, EMBEDDING_MODEL)}
    specs = {spec.name: spec for spec in arguments.model}
    cards = [known.get(name) or fake_model(name, "completion", "tools") for name in specs]
    return FakeOllama(*cards, machine=machine, specs=specs)


async def main() -> None:
    arguments = parsed()
    host, _, port = arguments.listen.rpartition(":")
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    fake = fake_ollama(arguments, Config.from_env(Environment(os.environ)))
    await fake.serve(host=host, port=int(port))
    sys.stdout.write(f"listening on {fake.url}\n")
    sys.stdout.flush()
    await stop.wait()
    await fake.close()


if __name__ == "__main__":
    asyncio.run(main())
