"""Programs in other languages stand behind the same walls: what they may not do in Python, they may not do in theirs."""

import asyncio
import json
import shlex
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest
from google.protobuf.duration_pb2 import Duration
from ollamesh.sandbox.v1 import execution_pb2 as pb
from ollamesh.sandbox.v1.sandbox_service_pb2 import ExecuteRequest

from tests.sandbox_attacks.outside import Outside
from tests.sandbox_attacks.remains import pids_of
from tests.service.sandbox_app import (
    TIMEOUT_S,
    Ran,
    Sandbox,
    Service,
    built_root,
    descendants,
    serving,
)
from tests.service.sandbox_users import AS_ROOT, AS_USER

PROFILES = ("bash", "node")
MEMORY_BYTES = 256 << 20  # Node begins with some eighty.

# Each line tries one thing, and says "breach" if it was not refused.
BASH = """
exec 2> /dev/null
try() {{ "$@" && echo "breach: $*"; }}
(exec 3<> /dev/tcp/127.0.0.1/{tcp}) && echo "breach: tcp"
(echo x > /dev/udp/127.0.0.1/{udp}) && echo "breach: udp"
(: < {file}) && echo "breach: file"
(: > /usr/written) && echo "breach: root"
(: > /etc/passwd) && echo "breach: passwd"
kill -0 {canary} && echo "breach: canary"
kill -9 1 && [ -d /proc/1 ] && echo "breach: init"
(: < /proc/1/environ) && echo "breach: environment of the init"
(: > /proc/sys/kernel/core_pattern) && echo "breach: kernel"
ulimit -n 100000 && echo "breach: descriptors"
printf '#!/usr/bin/bash\\necho breach: written program\\n' > /work/x; chmod +x /work/x; /work/x
case "$(set)" in *must-not-be-seen*) echo "breach: environment";; esac
echo tried
"""
NODE = """
const fs = require('fs'), net = require('net'), child = require('child_process'), dgram = require('dgram');
const held = (what, act) => {{ try {{ act(); console.log('breach: ' + what); }} catch (error) {{}} }};
held('file', () => fs.readFileSync({file}));
held('root', () => fs.writeFileSync('/usr/written', ''));
held('passwd', () => fs.appendFileSync('/etc/passwd', ''));
held('canary', () => process.kill({canary}, 0));
held('environment of the init', () => fs.readFileSync('/proc/1/environ'));
held('kernel', () => fs.writeFileSync('/proc/sys/kernel/core_pattern', ''));
held('root user', () => process.setuid(0));
held('written program', () => {{
  fs.copyFileSync(process.execPath, '/work/x'); fs.chmodSync('/work/x', 0o755); child.execFileSync('/work/x', ['-v']);
}});
if (JSON.stringify(process.env).includes('must-not-be-seen')) console.log('breach: environment');
const tcp = new Promise(done => {{
  const made = net.connect({tcp}, '127.0.0.1', () => {{ console.log('breach: tcp'); done(); }}); made.on('error', done);
}});
const abstract = new Promise(done => {{
  const made = net.connect('\\0{abstract}', () => {{ console.log('breach: abstract'); done(); }}); made.on('error', done);
}});
Promise.all([tcp, abstract]).then(() => console.log('tried'));
"""


@pytest.fixture(scope="module", params=[AS_ROOT, AS_USER])
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    root, *_ = [built_root(profile) for profile in PROFILES]
    settings = {"OLLAMESH_SANDBOX_PROFILES": ",".join(PROFILES), "OLLAMESH_SANDBOX_WARM_COUNT": "1"}
    with serving(root, uid=request.param, settings=settings) as running:
        yield running


@pytest.fixture
async def sandbox(service: Service) -> AsyncIterator[Sandbox]:
    async with service.connected() as client:
        async with asyncio.timeout(TIMEOUT_S):
            while len((await client.capabilities()).profiles) < len(PROFILES):
                await asyncio.sleep(0.05)
        yield client


async def run(sandbox: Sandbox, profile: str, code: str, wall_s: int = 10) -> Ran:
    limits = pb.Limits(wall=Duration(seconds=wall_s), memory_bytes=MEMORY_BYTES)
    spec = pb.ExecutionSpec(code=code, profile=profile, limits=limits)
    ran = Ran()
    async for response in sandbox.stub.Execute(
        ExecuteRequest(spec=spec), timeout=TIMEOUT_S, metadata=sandbox.metadata
    ):
        ran.events.append(response.event)
    return ran


def aimed(code: str, outside: Outside, quoted: type[object]) -> str:
    """`code`, at what is planted outside."""
    file = str(outside.folder / "secret")
    return code.format(
        tcp=outside.listeners["tcp"].getsockname()[1],
        udp=outside.listeners["udp"].getsockname()[1],
        abstract=outside.listeners["abstract"].getsockname()[1:].decode(),
        file=json.dumps(file) if quoted is str else shlex.quote(file),
        canary=outside.canary.pid,
    )


@contextmanager
def nothing_left(service: Service, outside: Outside) -> Iterator[None]:
    yield
    assert outside.touched() == []
    pids = [pids_of(pid) for pid in descendants(service.process.pid)]
    assert not [one for one in pids if len(one) == 3 and one[-1] > 2]


async def test_bash(sandbox: Sandbox, service: Service, outside: Outside) -> None:
    with nothing_left(service, outside):
        ran = await run(sandbox, "bash", aimed(BASH, outside, bytes))
    assert (ran.stdout, ran.outcome) == ("tried\n", "OK"), ran.stderr


async def test_node(sandbox: Sandbox, service: Service, outside: Outside) -> None:
    with nothing_left(service, outside):
        ran = await run(sandbox, "node", aimed(NODE, outside, str))
    assert (ran.stdout, ran.outcome) == ("tried\n", "OK"), ran.stderr


@pytest.mark.parametrize(
    ("profile", "code", "outcomes"),
    [
        pytest.param("bash", "bomb() { bomb | bomb & }; bomb; while :; do :; done", {"TIMEOUT"}, id="bash-bomb"),
        pytest.param("bash", "trap '' TERM INT HUP; while :; do :; done", {"TIMEOUT"}, id="bash-deaf"),
        pytest.param("bash", "x=x; while :; do x=$x$x; done", {"OOM", "ERROR", "TIMEOUT"}, id="bash-memory"),
        pytest.param("bash", "while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done", {"OUTPUT_LIMIT", "TIMEOUT"}, id="bash-flood"),
        pytest.param("bash", "(trap '' HUP; while :; do :; done) & exit 3", {"ERROR"}, id="bash-daemon"),
        pytest.param("node", "for (;;) {}", {"TIMEOUT"}, id="node-busy"),
        pytest.param("node", "process.on('SIGTERM', () => {}); process.on('SIGINT', () => {}); setInterval(() => {}, 10)", {"TIMEOUT"}, id="node-deaf"),
        pytest.param("node", "const held = []; for (;;) held.push(Buffer.alloc(1 << 22, 1))", {"OOM", "SIGNALLED", "ERROR", "TIMEOUT"}, id="node-memory"),
        pytest.param("node", "require('child_process').spawn(process.execPath, ['-e', 'for(;;){}'], {detached: true}).unref(); process.exit(3)", {"ERROR"}, id="node-daemon"),
    ],
)  # fmt: skip
async def test_limits_hold(
    sandbox: Sandbox, service: Service, outside: Outside, profile: str, code: str, outcomes: set[str]
) -> None:
    with nothing_left(service, outside):
        ran = await run(sandbox, profile, code, wall_s=3)
    assert ran.outcome in outcomes, (ran.exited, ran.stderr[-500:])
