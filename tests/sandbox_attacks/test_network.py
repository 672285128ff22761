"""No program speaks to anyone: not to the host, not to the network, not to another jail."""

from tests.sandbox_attacks.case import Case, Weak
from tests.sandbox_attacks.outside import Outside
from tests.sandbox_attacks.place import Place, attack, see

CASES = (
    Case(
        name="tcp-to-the-host",
        breach="a connection to a port of the host, by any of its addresses",
        weak=Weak.OPEN,
        code="""
import socket
def connect(address, port):
    with socket.socket() as made:
        made.settimeout(1)
        made.connect((address, port))
def every(port):
    for address in ("127.0.0.1", "localhost", "0.0.0.0", "127.1.2.3", "10.0.2.2", "169.254.169.254"):
        try:
            return connect(address, port)
        except OSError as error:
            last = error
    raise last
refused("a port", lambda: every(OUTSIDE["tcp"]))
refused("the service's own port", lambda: every(OUTSIDE["port"]))
""",
    ),
    Case(
        name="udp-to-the-host",
        breach="a datagram that arrives on the host",
        weak=Weak.OPEN,
        code="""
import socket
def send():
    with socket.socket(type=socket.SOCK_DGRAM) as made:
        return made.sendto(b"x", ("127.0.0.1", OUTSIDE["udp"]))
if OUTSIDE["engine"] == "gvisor":  # There it is sent to the jail's own, which is what `touched` tells.
    try: send()
    except OSError: pass
    tell("HELD", "sent")
else:
    refused("sent", send)
""",
    ),
    Case(
        name="abstract-socket-of-the-host",
        breach="a connection to a socket that has no file: nothing but a namespace keeps it apart",
        weak=Weak.OPEN,
        code="""
import socket
for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM):
    with socket.socket(socket.AF_UNIX, kind) as made:
        refused(kind.name, lambda: made.connect("\\0" + OUTSIDE["abstract"]))
""",
        unseen=("SOCK_SEQPACKET", "SOCK_DGRAM"),  # The listener is of another kind.
    ),
    Case(
        name="socket-file-of-the-host",
        breach="a connection to a socket that has a file",
        weak=Weak.CLOSED,
        code="""
import socket
with socket.socket(socket.AF_UNIX) as made:
    refused("connected", lambda: made.connect(OUTSIDE["unix"]))
""",
    ),
    Case(
        name="socket-families",
        breach="a socket of any family but AF_UNIX: AF_VSOCK, for one, ignores network namespaces",
        engines=("ns",),
        weak=Weak.CLOSED,
        code="""
import socket
made = set()
for family in range(64):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
        try:
            socket.socket(family, kind).close()
            made.add(family)
        except OSError:
            pass
sees("families", socket.AF_UNIX in made)
held("families", made == {socket.AF_UNIX}, made)
""",
    ),
    Case(
        name="socket-pairs",
        breach="a pair of sockets of another family",
        engines=("ns",),
        code="""
import socket
socket.socketpair()[0].close()
for family in (2, 10, 16, 30, 38, 40):
    refused(f"family {family}", lambda: socket.socketpair(family))
""",
    ),
    Case(
        name="raw-packets",
        breach="a socket that reads or forges packets",
        weak=Weak.CLOSED,
        engines=("ns",),
        code="""
import socket
refused("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close())
refused("packet", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x0300).close())
""",
    ),
    Case(
        name="netlink",
        breach="the host's interfaces and routes, or a change to any",
        engines=("ns",),
        weak=Weak.CLOSED,
        code="""
import socket
for protocol in (0, 4, 9, 12, 15, 16):  # Route, sock_diag, audit, netfilter, uevents, generic.
    refused(f"protocol {protocol}", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol).close())
""",
        unseen=("protocol 9", "protocol 12"),  # Not in every kernel.
    ),
    Case(
        name="interfaces",
        breach="an interface that leads anywhere",
        weak=Weak.OPEN,
        code="""
def listed():
    try:
        text = open("/proc/self/net/dev").read()
    except OSError:
        return set()
    return {line.split(":")[0].strip() for line in text.splitlines()[2:]}
held("interfaces", listed() <= {"lo"}, listed())
""",
    ),
    Case(
        name="what-proc-tells-of-the-network",
        breach="the host's listening sockets by way of /proc",
        weak=Weak.OPEN,
        code="""
seen = ""
for name in ("net/tcp", "net/unix", "self/net/tcp", "self/net/unix", "thread-self/net/tcp", "1/net/tcp"):
    try:
        seen += open(f"/proc/{name}").read()
    except OSError:
        pass
held("a port", f":{OUTSIDE['tcp']:04X} " not in seen)
held("a socket", OUTSIDE["abstract"] not in seen)
""",
    ),
    Case(
        name="descriptors-over-a-socket",
        breach="a message with a descriptor to a socket of the host's",
        weak=Weak.OPEN,
        code="""
import socket
def send():
    with socket.socket(socket.AF_UNIX) as made:
        made.connect("\\0" + OUTSIDE["abstract"])
        socket.send_fds(made, [b"x"], [0])
refused("sent", send)
""",
    ),
)


async def test_attack(case: Case, place: Place, outside: Outside) -> None:
    await attack(case, place, outside)


async def test_its_check_can_see(weak_case: Case, outside: Outside) -> None:
    await see(weak_case, outside)
