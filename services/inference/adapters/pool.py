"""The connections to one Ollama server: kept alive and reused, because a new one costs a round trip."""

import asyncio
import ssl
from collections.abc import Callable

from services.inference.adapters.connection import Connection, Patience, Reader
from services.inference.core.endpoints import Endpoint
from services.inference.ports import Fault, Trouble

# A connection that its server had closed while it was idle says so within a round trip of being used. One
# that breaks later has been worked on: that is the instance's failure.
STALE_WITHIN_S = 0.25


class Pool:
    """Connections in use are bounded by their users, idle ones by `idle_max`."""

    def __init__(self, endpoint: Endpoint, *, connect_timeout_s: float, idle_max: int) -> None:
        self._endpoint = endpoint
        self._tls = ssl.create_default_context() if endpoint.secure else None
        self._connect_timeout_s = connect_timeout_s
        self._idle_max = idle_max
        self._idle: list[Connection] = []

    async def exchange(self, request: Callable[[], bytes], reader: Reader, patience: Patience) -> None:
        """As Connection.exchange, on whichever connection.

        `request` makes the bytes when they are to be sent: a long prompt need not be kept as long as its answer takes.
        """
        loop = asyncio.get_running_loop()
        while self._idle:
            connection = self._idle.pop()
            if connection.closed:
                continue
            asked_at_s = loop.time()
            try:
                return await self._use(connection, request, reader, patience)
            except Trouble as trouble:
                broken = trouble.fault is Fault.UNREACHABLE and not connection.answered
                if not broken or loop.time() - asked_at_s > STALE_WITHIN_S:
                    raise
                break  # Others may be as old; a new one leaves no doubt whose failure the next is.
        return await self._use(await self._connect(), request, reader, patience)

    async def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            await self._idle.pop().close()

    async def _use(
        self, connection: Connection, request: Callable[[], bytes], reader: Reader, patience: Patience
    ) -> None:
        await connection.exchange(request, reader, patience)
        if connection.reusable:
            if len(self._idle) < self._idle_max:
                self._idle.append(connection)
            else:
                await connection.close()

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, connection = await loop.create_connection(
                    Connection, self._endpoint.host, self._endpoint.port, ssl=self._tls
                )
        except (
            OSError,
            UnicodeError,
        ) as error:  # Timeouts and TLS errors are such, too; the latter for no name.
            raise Trouble(Fault.UNREACHABLE, f"cannot connect: {type(error).__name__}") from error
        return connection
