"""`python -m deploy.docker.prove [--again]`: build every image, look into it, and run a mesh of them.

What is proved: the real Dockerfile builds; each image has its own files only, runs as an ordinary user on a root that
cannot be written to, becomes healthy by its own HEALTHCHECK, does its work, and ends well when it is asked to. Not proved,
for want of them here: the official base image, a registry, another architecture, a real container runtime's cgroups and
seccomp profile. `--again` only builds one image twice and compares.
"""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from deploy.docker import looks
from deploy.docker.container import Container
from deploy.docker.engine import Engine, EngineError, enter
from deploy.docker.images import IMAGES
from deploy.docker.mesh import MODEL, Mesh, NotProved, Started, stop, stores, until_healthy
from deploy.local.settings import DEFAULT_PORTS, Settings, port_variable
from tools.debian import Unobtainable

ORDER = ("auth", "inference", "sandbox", "agent")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="images-prove")
    parser.add_argument("--again", action="store_true", help="build one image twice: are both the same?")
    asked = parser.parse_args(arguments)
    if os.geteuid() != 0:
        print("images-prove: skipped: it takes root, for debootstrap and for mounts")
        return 0
    try:
        enter("deploy.docker.prove")
        engine = Engine()
        _timed("base", engine.make_base)
        if asked.again:
            _timed("build auth twice", partial(_same, engine))
            return 0
        for image in IMAGES:
            _timed(f"build {image.service}", partial(engine.build, image))
        asyncio.run(_prove(engine))
    except Unobtainable as error:
        print(f"images-prove: skipped: {error}")
        return 0
    except (EngineError, NotProved) as error:
        print(f"images-prove: {error}", file=sys.stderr)
        return 1
    print("images-prove: fine")
    return 0


def _timed(what: str, act: Callable[[], object]) -> None:
    began_s = time.monotonic()
    told = act()
    print(f"{what:24} {time.monotonic() - began_s:6.1f} s  {told or ''}", flush=True)


def _same(engine: Engine) -> str:
    digests = {
        engine.build(IMAGES[0], anew=anew, tag=f"localhost/again-{int(anew)}") for anew in (False, True)
    }
    if len(digests) > 1:
        raise NotProved(f"two builds of {IMAGES[0].name} differ: {', '.join(sorted(digests))}")
    return "the same, bit by bit"


async def _prove(engine: Engine) -> None:
    with tempfile.TemporaryDirectory(prefix="ollamesh-prove-") as made, ExitStack() as opened:
        folder = Path(made)
        await asyncio.to_thread(folder.chmod, 0o755)  # The images' user is not root.
        variables = {port_variable(name): "0" for name in DEFAULT_PORTS} | {
            name: value for name, value in os.environ.items() if name not in {"OLLAMESH_HOME", "OLLAMA_HOSTS"}
        }
        settings = Settings.from_env(
            {**variables, "OLLAMESH_HOME": str(folder / "home"), "OLLAMESH_EMBEDDED_MODELS": "true"}
        )
        async with stores(settings) as plan:
            mesh = Mesh(engine, plan, folder)
            opened.enter_context(mesh.mounted())
            await _run(mesh)


async def _run(mesh: Mesh) -> None:
    for image in IMAGES:
        container = _container(mesh, image.service)
        _timed(f"look into {image.service}", partial(looks.into, image, container))
    migrated = await asyncio.to_thread(
        mesh.migrations().run, *mesh.migrations().settings.command, within_s=120
    )
    if migrated.returncode != 0:
        raise NotProved(f"migrations end with status {migrated.returncode}: {migrated.stderr.strip()[-300:]}")
    running: dict[str, Started] = {}
    try:
        for name in (*ORDER, "edge"):
            running[name] = mesh.start(name, _container(mesh, name))
        for name, started in running.items():
            took_s = await asyncio.to_thread(until_healthy, name, started)
            print(f"{name:24} {took_s:6.1f} s  healthy, as {started.container.settings.user}", flush=True)
        await _work(mesh)
        for name in reversed(list(running)):
            await asyncio.to_thread(stop, name, running.pop(name))
        print("stopped, each with status 0", flush=True)
    finally:
        for started in running.values():
            started.process.send_signal(signal.SIGKILL)
            started.process.wait(timeout=10)


def _container(mesh: Mesh, name: str) -> Container:
    of = {"edge": mesh.edge_container, "migrations": mesh.migrations}
    return of[name]() if name in of else mesh.service(name)


async def _work(mesh: Mesh) -> None:
    """Through the edge of an image to the services of images: a model's answer, a program's, a run's."""
    async with asyncio.timeout(240), mesh.client() as client:
        texts = [event async for event in client.chat(MODEL, "Say hello.")]
        print(f"chat                              {len(texts)} events through the edge", flush=True)
        done = await client.sandbox.run("print(6 * 7)")
        if done.stdout.strip() != b"42":
            raise NotProved(f"the sandbox says {done.stdout!r}")
        print("sandbox                           6 * 7 = 42 in a jail in the container", flush=True)
        events = [type(event).__name__ async for event in client.run("Say hello.")]
        print(f"run                               {len(events)} events, the last is {events[-1]}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
