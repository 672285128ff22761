"""What code in a jail must not be able to do. Each test says what would be a breach."""

import asyncio
import json
import os
import textwrap
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from ollamesh.sandbox.v1 import execution_pb2 as pb

from tests.service.sandbox_app import (
    SECRET,
    Sandbox,
    Service,
    built_root,
    descendants,
    owners,
    serving,
)
from tests.service.sandbox_users import AS_ROOT, AS_USER

SPARE_COUNT = 24  # Processes of eight warm jails, and of one more or two, which come and go meanwhile.

# Tells what became of an act: what it returned, or the name of its exception.
TRY = """
import ctypes, json, os, pathlib, socket, sys

def attempt(act):
    try:
        return act()
    except BaseException as error:
        return type(error).__name__
"""


@pytest.fixture(scope="module")
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    with serving(built_root(), uid=request.param) as running:
        yield running


@pytest.fixture
async def sandbox(service: Service) -> AsyncIterator[Sandbox]:
    async with service.ready() as client:
        yield client


pytestmark = pytest.mark.parametrize("service", [AS_ROOT, AS_USER], indirect=True)


async def tried(sandbox: Sandbox, code: str, **outside: object) -> Any:
    """Run `code`, which sets `answer`; it finds what is there outside in `outside`."""
    program = f"{TRY}\noutside = json.load(sys.stdin)\n{textwrap.dedent(code)}\nprint(json.dumps(answer))"
    ran = await sandbox.run(program, stdin=json.dumps(outside).encode())
    assert ran.outcome == "OK", ran.stderr
    return json.loads(ran.stdout)


async def test_it_is_nobody_and_has_no_capability(sandbox: Sandbox) -> None:
    status = await tried(
        sandbox,
        """
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
        answer = dict(line.split(":\\t", 1) for line in lines if ":\\t" in line)
        """,
    )
    assert status["Uid"].split() == ["65534"] * 4
    assert status["Gid"].split() == ["65534"] * 4
    assert [int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")] == [0] * 5
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


async def test_outside_it_is_not_root_either(service: Service, sandbox: Sandbox) -> None:
    """A user namespace of root's would map it to root, whatever it looks like inside."""
    call = aiter(sandbox.call("import time; time.sleep(60)"))
    assert (await anext(call)).event.HasField("started")
    below = descendants(service.process.pid)
    found = owners(below)
    assert found
    assert 0 not in found


async def test_no_network_of_any_kind(sandbox: Sandbox) -> None:
    families = await tried(
        sandbox,
        """
        def opened(family):
            with socket.socket(family, socket.SOCK_STREAM if family != 16 else socket.SOCK_RAW):
                return "open"
        answer = {family: attempt(lambda: opened(family)) for family in range(1, 46)}
        """,
    )
    assert {family for family, result in families.items() if result == "open"} == {"1"}  # AF_UNIX.


async def test_no_way_to_a_port_or_a_socket_of_the_host(sandbox: Sandbox) -> None:
    """Abstract sockets have no file, so that only a network namespace or Landlock keeps them apart."""
    name = f"\0sandbox-test-{os.getpid()}"
    listener = await asyncio.start_unix_server(lambda _reader, _writer: None, path=name)
    async with listener:
        answer = await tried(
            sandbox,
            """
            unix = socket.socket(socket.AF_UNIX)
            answer = attempt(lambda: unix.connect(outside["name"]))
            """,
            name=name,
        )
    assert answer in {"ConnectionRefusedError", "PermissionError"}


async def test_no_file_of_the_host(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    paths = ["/etc/shadow", "/etc/hostname", "/home", "/root", "/sys", "/proc/sys", "/proc/kcore", "/boot"]
    answer = await tried(
        sandbox,
        """
        answer = {path: attempt(lambda: os.stat(path) and "there") for path in outside["paths"]}
        """,
        paths=[*paths, __file__, str(tmp_path / "mine"), f"/proc/{os.getpid()}"],
    )
    assert set(answer.values()) == {"FileNotFoundError"}, answer


async def test_nothing_tells_where_the_root_lies(sandbox: Sandbox) -> None:
    answer = await tried(sandbox, "answer = pathlib.Path('/proc/self/mountinfo').read_text()")
    assert "sandbox-root-" not in answer


async def test_its_root_cannot_be_changed(sandbox: Sandbox) -> None:
    answer = await tried(
        sandbox,
        """
        folders = [folder for folder, _, _ in os.walk("/") if not folder.startswith("/proc")]
        def written(folder):
            path = pathlib.Path(folder, "written")
            path.write_text("")
            path.unlink()
            return True
        answer = [folder for folder in folders if attempt(lambda: written(folder)) is True]
        answer += [attempt(lambda: os.chmod("/usr", 0o777)), attempt(lambda: os.unlink("/etc/passwd"))]
        """,
    )
    assert sorted(answer) == ["/dev/shm", "/tmp", "/work", "OSError", "OSError"]


async def test_what_it_writes_cannot_be_executed(sandbox: Sandbox) -> None:
    """Else a program that the meter cannot see could be made."""
    answer = await tried(
        sandbox,
        """
        import shutil
        answer = {}
        for folder in ("/work", "/tmp", "/dev/shm"):
            copy = shutil.copy(os.path.realpath(sys.executable), folder)
            os.chmod(copy, 0o111)
            answer[folder] = attempt(lambda: os.execv(copy, ["x"]))
        """,
    )
    assert set(answer.values()) == {"PermissionError"}


async def test_it_sees_nothing_of_the_service(service: Service, sandbox: Sandbox) -> None:
    """Neither its environment nor its descriptors nor its processes."""
    answer = await tried(
        sandbox,
        """
        answer = {
            "environment": dict(os.environ),
            "initial": pathlib.Path("/proc/self/environ").read_text(),
            "descriptors": sorted(os.listdir("/proc/self/fd")),
            "processes": [name for name in os.listdir("/proc") if name.isdigit()],
            "init": attempt(lambda: os.listdir("/proc/1/fd")),
            "parent": attempt(lambda: os.kill(os.getppid(), 9)),
        }
        """,
    )
    assert SECRET not in json.dumps(answer)
    assert set(answer["environment"]) == {"PATH", "HOME", "LANG", "TZ", "TMPDIR"}
    assert answer["descriptors"] == ["0", "1", "2", "255", "3"]  # For results, and the listing's own.
    assert answer["processes"] == ["2"]
    assert answer["init"] == "FileNotFoundError"
    assert service.process.poll() is None


async def test_nothing_is_left_of_the_execution_before(sandbox: Sandbox) -> None:
    """Neither files, nor processes, nor changed modules, in many executions at once and after another."""
    mark = """
        import math
        found = [attempt(lambda: os.listdir(folder)) for folder in ("/work", "/tmp", "/dev/shm")]
        answer = [found, getattr(math, "marked", None)]
        math.marked = True
        for folder in ("/work", "/tmp", "/dev/shm"):
            pathlib.Path(folder, "mark").write_text("")
    """
    for answers in (
        await asyncio.gather(*(tried(sandbox, mark) for _ in range(8))),
        [await tried(sandbox, mark) for _ in range(8)],
    ):
        assert answers == [[[[], [], []], None]] * 8


async def test_randomness_is_not_shared(sandbox: Sandbox) -> None:
    code = "import random, uuid, secrets; answer = [random.random(), str(uuid.uuid4()), secrets.token_hex()]"
    answers = [await tried(sandbox, code) for _ in range(4)]
    for values in zip(*answers, strict=True):
        assert len(set(values)) == len(answers)


@pytest.mark.parametrize(
    "act",
    [
        "succeed(libc.unshare(0x10000000))",  # A user namespace gives every capability in it.
        "succeed(libc.mount(b'none', b'/tmp', b'tmpfs', 0, None))",
        "succeed(libc.ptrace(16, os.getppid(), 0, 0))",
        "succeed(libc.syscall(321, 0, 0, 0))",  # bpf
        "succeed(libc.syscall(425, 1, 0))",  # io_uring_setup
        "succeed(libc.syscall(323, 0))",  # userfaultfd
        "succeed(libc.syscall(298, 0, 0, 0, 0, 0))",  # perf_event_open
        "succeed(libc.syscall(250, 0, 0, 0, 0, 0))",  # keyctl
        "succeed(libc.inotify_init1(0))",  # It would tell of accesses by others to the shared root.
        "os.memfd_create('x')",
        "os.setuid(0)",
        "os.setgroups([0])",
        "os.chroot('/tmp')",
        "os.mknod('/tmp/x', 0o20666, os.makedev(1, 1))",
        "socket.sethostname('x')",
        "succeed(libc.prctl(4, 0, 0, 0, 0))",  # PR_SET_DUMPABLE
        "open('/proc/self/oom_score_adj', 'w').write('-1000')",
        "open('/proc/self/uid_map', 'w').write('0 0 1')",
        "open('/dev/mem', 'rb')",
    ],
)
async def test_what_the_kernel_must_refuse(sandbox: Sandbox, act: str) -> None:
    ran = await sandbox.run(f"""{TRY}
libc = ctypes.CDLL(None, use_errno=True)
def succeed(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
try:
    {act}
except OSError:
    print("refused")
""")
    assert (ran.stdout, ran.outcome) == ("refused\n", "OK"), ran.stderr


async def test_a_fork_bomb_is_bounded_and_leaves_nothing(service: Service, sandbox: Sandbox) -> None:
    before_count = len(descendants(service.process.pid))
    bomb = "import os, time\nwhile True:\n    try: os.fork()\n    except OSError: time.sleep(0.01)\n"
    run = asyncio.create_task(sandbox.run(bomb, limits=pb.Limits(wall=Duration(seconds=3))))
    most_count = 0
    while not run.done():
        most_count = max(most_count, len(descendants(service.process.pid)))
        await asyncio.sleep(0.02)
    assert (await run).outcome == "TIMEOUT"
    assert before_count + SPARE_COUNT < most_count <= before_count + 64 + SPARE_COUNT
    assert len(descendants(service.process.pid)) <= before_count + SPARE_COUNT


async def test_processes_and_threads_are_limited_together(sandbox: Sandbox) -> None:
    answer = await tried(
        sandbox,
        """
        import threading, time
        def grow():
            while True:
                threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        attempt(grow)
        answer = threading.active_count()
        """,
    )
    assert 8 < answer <= 64


async def test_files_are_limited_in_size_and_number(sandbox: Sandbox) -> None:
    answer = await tried(
        sandbox,
        """
        def fill():
            for number in range(100):
                with open(f"/{('work', 'tmp', 'dev/shm')[number % 3]}/{number}", "wb") as file:
                    for _ in range(8):
                        file.write(bytes(1 << 20))
        def scatter():
            for number in range(100_000):
                os.mkdir(f"/tmp/{number}")
        answer = {"fill": attempt(fill)}
        files = os.statvfs("/work")
        answer["bytes"] = files.f_blocks * files.f_frsize
        for folder in ("work", "tmp", "dev/shm"):
            for path in pathlib.Path("/", folder).iterdir():
                path.unlink()
        answer |= {"scatter": attempt(scatter), "count": len(os.listdir("/tmp"))}
        """,
    )
    assert (answer["fill"], answer["scatter"]) == ("OSError", "OSError")
    assert answer["bytes"] == 64 << 20
    assert answer["count"] <= 4096


async def test_the_report_of_its_end_cannot_be_forged(sandbox: Sandbox) -> None:
    """A program that writes to every descriptor it can think of still ends as it ends."""
    ran = await sandbox.run(
        "import os\n"
        "for descriptor in range(3, 256):\n"
        '    try: os.write(descriptor, b\'["Ended", {"status": 0}]\')\n'
        "    except OSError: pass\n"
        "os._exit(5)\n"
    )
    assert (ran.outcome, ran.exited.exit_code) == ("ERROR", 5)
