"""What could keep the stack from working on this machine, each with the command that mends it.

Every check looks at the real thing: it starts the servers' programs, builds a user namespace, asks the
parts. A check that finds nothing wrong says what it saw.
"""

import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import psutil

from deploy.envoy.config import parse_endpoint
from deploy.local import board, checkup, identities, observing, ports, postgres, servers, stack
from deploy.local.diagnosis import diagnose
from deploy.local.errors import StackError
from deploy.local.finding import Check, ill, well
from deploy.local.model_source import find_models
from deploy.local.plan import DATABASE, check_folders
from deploy.local.secret_files import SecretFiles
from deploy.local.settings import OTLP_TARGET, Settings
from services.common.launch import Guard, server_uid
from services.sandbox import profiles
from services.sandbox.adapters.ns.explain import kernel_problem
from tools import prometheus as programs

PYTHON_MIN = (3, 11)
# The services and stores need 0.9 GB, the embedded models 0.5.
MEMORY_MIN_BYTES = 1_500_000_000
PROGRAM_WITHIN_S = 20.0
HOUR_S, DAY_S = 3600, 86_400
COLLECTOR_WITHIN_S = 2.0
# Root in a user namespace made by root is the host's root, so the sandbox becomes another uid first.
JAIL_UID = 65001
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID = 0x00020000, 0x10000000, 0x20000000


def examine(settings: Settings) -> Iterator[Check]:
    """All checks, in the order in which a person would mend them."""
    yield _python()
    yield _folders(settings)
    yield _memory()
    yield from _programs()
    yield _namespaces()
    yield _profiles(settings)
    yield _secrets(settings)
    yield _certificates(settings)
    yield _traces(settings)
    if settings.observes:
        yield _observers(settings)
    yield _stale(settings)
    if board.of_running(settings.home) is None:
        yield from _ports(settings)
    else:
        yield from _parts(settings)


def _python() -> Check:
    seen = f"Python {sys.version.split()[0]} on {sys.platform}"
    if not sys.platform.startswith("linux"):
        return ill("system", f"{seen}: the local stack needs Linux")
    if sys.version_info < PYTHON_MIN:
        return ill("system", f"{seen} is too old", "make clean && make PYTHON=python3.12 setup")
    return well("system", seen)


def _folders(settings: Settings) -> Check:
    try:
        check_folders(settings)
    except StackError as error:
        return ill("disk", str(error))
    free_bytes = shutil.disk_usage(settings.home).free
    return well("disk", f"{free_bytes // 10**9} GB free for {settings.home}")


def _memory() -> Check:
    free_bytes = psutil.virtual_memory().available
    seen = f"{free_bytes / 10**9:.1f} GB of memory are available"
    if free_bytes < MEMORY_MIN_BYTES:
        return ill("memory", f"{seen}, and the stack needs {MEMORY_MIN_BYTES / 10**9} GB; end other programs")
    return well("memory", seen)


def _programs() -> Iterator[Check]:
    """Each server's program starts, which it does not if a library is missing or too old."""
    finders = {"PostgreSQL": servers.postgres, "Redis": servers.valkey, "Envoy": servers.envoy}
    for name, find in finders.items():
        try:
            yield _starts(name, [str(find()), "--version"])
        except StackError as error:
            yield ill(name, str(error), "make setup")
    yield _starts("llama.cpp", [sys.executable, "-c", "import xllamacpp; print(xllamacpp.__name__)"])


def _starts(name: str, argv: Sequence[str]) -> Check:
    guarded = Guard(uid=server_uid() if name == "PostgreSQL" else None).command(argv)
    try:
        done = subprocess.run(guarded, capture_output=True, text=True, timeout=PROGRAM_WITHIN_S, check=False)
    except subprocess.TimeoutExpired:
        return ill(name, f"its program did not answer within {PROGRAM_WITHIN_S:g} s")
    if done.returncode == 0:
        return well(name, (done.stdout.strip() or "starts").splitlines()[0])
    return ill(name, diagnose(done.stderr, code=done.returncode, home="", port=None, port_variable=""))


def _namespaces() -> Check:
    """What the sandbox's jails are made of."""
    error = _error_of_namespaces()
    if error == 0:
        return well("sandbox", "user namespaces can be made")
    return ill("sandbox", f"no jail can be built ({os.strerror(error)}): {kernel_problem()}")


# Run as a program: a fork of a process in which gRPC has started may hang. It starts as who we are and then
# becomes the jail's user, who may not be able to reach Python.
_UNSHARE = """
import ctypes, os, sys
uid, flags = map(int, sys.argv[1:])
try:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    made = ctypes.CDLL(None, use_errno=True).unshare(flags)
    sys.exit(0 if made == 0 else ctypes.get_errno())
except OSError as refused:
    sys.exit(refused.errno or 255)
"""


def _error_of_namespaces() -> int:
    flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID
    argv = [sys.executable, "-I", "-S", "-c", _UNSHARE, str(JAIL_UID), str(flags)]
    return subprocess.run(argv, timeout=PROGRAM_WITHIN_S, check=False).returncode


def _profiles(settings: Settings) -> Check:
    """What jails hold. What is missing is no fault: the next start builds it, where it can be built."""
    root = settings.cache / "sandbox"
    there = [name for name in profiles.names(root, (profiles.ALL,)) if (root / name / profiles.FILE).exists()]
    for name in there:
        try:
            profiles.read(root / name)
        except (OSError, ValueError) as error:
            return ill(
                "profiles", f"of {name}, {profiles.problem(error)}", f"rm -r {shlex.quote(str(root / name))}"
            )
    return well("profiles", f"the sandbox has {', '.join(there)}" if there else "none are built yet")


def _secrets(settings: Settings) -> Check:
    secrets = SecretFiles(settings.home)
    if open_paths := secrets.too_open():
        names = ", ".join(path.name for path in open_paths)
        mend = f"chmod -R u=rwX,go= {shlex.quote(str(secrets.folder))}"
        return ill("secrets", f"other users of this machine can reach {names}", mend)
    return well("secrets", "only their owner can read them")


def _certificates(settings: Settings) -> Check:
    """What the parts prove with who they are. The next start makes what is missing, so nothing is no fault."""
    if settings.insecure_inside:
        return well("identity", "OLLAMESH_INSECURE_INSIDE: the parts talk in plain text")
    if not (found := identities.expiries(settings.home)):
        return well("identity", "no certificates yet")
    first = min(found, key=lambda service: found[service])
    if (left_s := found[first] - time.time()) > 0:
        return well("identity", f"certificates are good for {left_s / HOUR_S:.1f} h, and renewed before")
    return ill("identity", f"the certificate of {first} expired {-left_s / HOUR_S:.1f} h ago", "make down up")


def _traces(settings: Settings) -> Check:
    if settings.keeps_traces:
        kept = f"{settings.traces_age_s / DAY_S:g} d and {settings.traces_bytes >> 20} MiB at most"
        return well("traces", f"are kept for {kept}; `ollamesh trace` shows them")
    if not (target := settings.inherited.get(OTLP_TARGET)):
        return well("traces", "none are made: OLLAMESH_TRACES is false")
    if (endpoint := parse_endpoint(target)) is None:
        return ill("traces", f"{OTLP_TARGET} is not host:port")
    try:
        socket.create_connection((endpoint.host, endpoint.port), timeout=COLLECTOR_WITHIN_S).close()
    except OSError as error:
        why = error.strerror or error
        return ill("traces", f"no collector answers at {target}, so spans are lost ({why}); start it there")
    return well("traces", f"go to the collector at {target}")


def _observers(settings: Settings) -> Check:
    try:
        folder = observing.check(settings)
    except StackError as error:
        return ill("observers", str(error), "make prometheus")
    missing = programs.missing(folder, observing.EXPORTERS)
    return well("observers", f"in {folder}" + (f", without {' and '.join(missing)}" if missing else ""))


def _stale(settings: Settings) -> Check:
    if board.read(settings.home) is not None and board.of_running(settings.home) is None:
        return ill("state", "the supervisor was killed; the next start cleans up", "make up")
    return well("state", "nothing is left of an earlier stack")


def _ports(settings: Settings) -> Iterator[Check]:
    source = find_models(settings)
    yield well("models", f"from: {source.kind}" + (f", at {source.hosts}" if source.hosts else ""))
    taken = False
    for name, port in settings.wanted_ports(has_runtime=source.is_ours).items():
        try:
            ports.resolve({name: port}, host=settings.bind)
        except StackError as error:
            taken = True
            yield ill("ports", str(error))
    if not taken:
        yield well("ports", "all are free")


def _parts(settings: Settings) -> Iterator[Check]:
    status = stack.status(settings)
    for part in status.parts:
        if part.health == "ok":
            yield well(part.name, part.state)
        else:
            yield ill(part.name, part.health, f"tail -n 20 {shlex.quote(part.log)}")
    yield from _checkup(settings, status)


def _checkup(settings: Settings, status: stack.Status) -> Iterator[Check]:
    """How those that run are doing."""
    yield checkup.clock()
    yield checkup.memory({part.name: part.rss_bytes for part in status.parts})
    services = {part.name: part.metrics for part in status.parts if part.metrics and part.name != "edge"}
    yield from checkup.latency(checkup.ask(services))
    port = next((part.port for part in status.parts if part.name == "postgres"), None)
    if port is None:
        return
    password = SecretFiles(settings.home).read("postgres_password")
    dsn = postgres.dsn(port=port, database=DATABASE, role=postgres.ADMIN, password=password)
    if (seen := checkup.ask_database(dsn)) is not None:
        yield from checkup.database(seen)
