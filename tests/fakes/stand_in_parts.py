"""A supervisor of small parts that a test describes: `python -m tests.fakes.stand_in_parts HOME SPECS`.

The supervisor, its warden and its processes are the real ones; only what the parts do is made up.
"""

from deploy.local import warden

if __name__ == "__main__":
    warden.detach()

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec

from deploy.local.core.graph import Node
from deploy.local.daemon import Prepared, main
from deploy.local.part import Command, Part
from deploy.local.probes import HttpProbe
from services.common.restarts import RestartPolicy

SERVE = """
import socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    caller, _ = server.accept()
    caller.recv(1000)
    caller.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\nhere")
    caller.close()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StandIn:
    name: str
    port: int = 0  # Passed to `code` as its argument.
    after: tuple[str, ...] = ()
    code: str = SERVE
    prepare: str = ""
    one_shot: bool = False
    start_within_s: float = 20.0
    stop_within_s: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StandIns:
    parts: tuple[StandIn, ...]
    policy: RestartPolicy

    def argv(self, home: Path) -> tuple[str, ...]:
        return (sys.executable, "-m", __name__, str(home), msgspec.json.encode(self).decode())


def _part(spec: StandIn) -> Part:
    return Part(
        node=Node(
            name=spec.name,
            after=spec.after,
            one_shot=spec.one_shot,
            has_preparation=bool(spec.prepare),
            start_within_s=spec.start_within_s,
            stop_within_s=spec.stop_within_s,
        ),
        prepare=_python(spec.prepare, spec.port) if spec.prepare else None,
        run=_python(spec.code, spec.port),
        probe=None if spec.one_shot else HttpProbe(spec.port, "/", "here"),
        port=spec.port,
        port_variable="OLLAMESH_STANDIN_PORT",
    )


def _python(code: str, port: int) -> Command:
    return Command(argv=(sys.executable, "-I", "-S", "-c", code, str(port)), env=dict(os.environ))


if __name__ == "__main__":
    specs = msgspec.json.decode(sys.argv[2], type=StandIns)
    main(Path(sys.argv[1]), lambda: Prepared(parts=tuple(map(_part, specs.parts)), policy=specs.policy))
