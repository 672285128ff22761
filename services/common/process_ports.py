"""Where the processes of one service listen: one rule for the service, the edge before it and the local stack."""

from services.common.config import Environment

PROCESSES_MAX = 64
_APART = 10  # The next port is another service's.
_PORT_MAX = 65_535


def process_ports(env: Environment, service: str, *, default: int, low: int = 0) -> tuple[int, ...]:
    """Return the ports of the `OLLAMESH_X_PROCESSES` (1) processes of a service, the first one's first.

    They are those that `OLLAMESH_X_PORTS` lists; else `OLLAMESH_X_PORT` and every tenth after it. 0 picks a free one
    for each.
    """
    prefix = f"OLLAMESH_{service.upper()}"
    count = env.integer(f"{prefix}_PROCESSES", 1, low=1, high=PROCESSES_MAX)
    first = env.integer(f"{prefix}_PORT", default, low=low, high=_PORT_MAX)
    listed = env.optional(f"{prefix}_PORTS")
    if listed is None:
        ports = tuple(first + _APART * place if first else 0 for place in range(count))
        if ports[-1] > _PORT_MAX:
            env.reject(f"{prefix}_PORT", "leaves no room for the ports of the other processes")
        return ports
    texts = [text.strip() for text in listed.split(",")]
    ports = tuple(
        int(text)
        for text in texts
        if text.isascii() and text.isdigit() and len(text) <= 5 and low <= int(text) <= _PORT_MAX
    )
    used = [port for port in ports if port]
    if len(ports) != len(texts) or len(set(used)) < len(used):
        env.reject(f"{prefix}_PORTS", "is not a list of different ports")
    elif len(ports) != count:
        env.reject(f"{prefix}_PORTS", f"does not name one port for each of {prefix}_PROCESSES")
    return ports or (first,)
