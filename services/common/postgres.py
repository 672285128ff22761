"""PostgreSQL through asyncpg: one bounded pool a process, and two ways in which it gives no answer.

StoreBusy: every connection is in use, and none became free in time. StoreUnavailable: the store is away. asyncpg
raises the same TimeoutError for both, so the pool's places are counted here: who has a place finds a connection free,
and whatever fails from then on is the store's own.

Connections are made when first needed, so that a service starts, unready, without its store.

Whose rows a connection may see is said when it is taken. Tables of tenants have row-level security (deploy/migrations/
roles.py): what is asked for one organisation sees that organisation's rows, even if its SQL forgets to ask whose they
are; what says nothing sees none. Work that belongs to no tenant says `system=True`, in few places that a test lists.
The word is given for one transaction and ends with it, so that no pool, ours or one between, can carry it on.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Self, TypeAlias

import asyncpg
import structlog
from asyncpg.connection import LoggedQuery
from prometheus_client import CollectorRegistry

from services.common.errors import StoreBusy, StoreFailure, StoreUnavailable
from services.common.postgres_metrics import PoolMetrics, PostgresMetrics
from services.common.tracing.stores import connection_waited, statement_ran

log = structlog.get_logger(__name__)

WAIT_S_MAX = 0.8  # For a connection. The refusal is to reach the caller within a second.
CONNECT_S_MAX = 2.0
COMMAND_S_MAX = 5.0

Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

# Said with BEGIN, in one round trip, for the rest of the transaction. The names are those of the policies. What takes no
# parameters must be built: an organisation is written as hexadecimal digits, which end no literal, whatever they mean.
_BEGIN = "BEGIN"
_SEES_ONE = (
    "BEGIN; SELECT set_config('ollamesh.organization', convert_from(decode('{}', 'hex'), 'UTF8'), true)"
)
_SEES_ALL = "BEGIN; SELECT set_config('ollamesh.system', 'on', true)"

# What a caller may try again. Any other failure of PostgreSQL is a bug of ours.
AWAY = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.DeadlockDetectedError,
    asyncpg.ReadOnlySQLTransactionError,  # A standby that is not yet what it will be.
    asyncpg.UndefinedTableError,  # Its migration is still to come.
)


class Database:
    """What the stores of a service share."""

    def __init__(
        self, pool: Pool, metrics: PoolMetrics, *, connections_max: int, connect_s_max: float
    ) -> None:
        self._pool, self._metrics = pool, metrics
        self._places = asyncio.Semaphore(connections_max)  # First come, first served.
        self._connect_s_max = connect_s_max
        self._in_use_count = 0

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        dsn: str,
        *,
        connections_max: int,
        connect_s_max: float = CONNECT_S_MAX,
        command_s_max: float = COMMAND_S_MAX,
        metrics: PoolMetrics | None = None,
    ) -> AsyncIterator[Self]:
        """The pool, for as long as the block runs; whoever uses it must have ended before.

        Without `metrics`, nobody is told what it costs.
        """
        told = metrics or PostgresMetrics(CollectorRegistry()).pool("main")

        def ran(query: LoggedQuery) -> None:
            told.ran(query)
            statement_ran(query)

        async def watch(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
            connection.add_query_logger(ran)

        pool = asyncpg.create_pool(
            dsn,
            min_size=0,
            max_size=connections_max,
            timeout=connect_s_max,
            command_timeout=command_s_max,
            reset=_left_as_it_was,
            init=watch,
        )
        told.opened(pool)
        try:
            await pool
            yield cls(pool, told, connections_max=connections_max, connect_s_max=connect_s_max)
        finally:
            pool.terminate()  # A polite end would wait for a store that hangs.

    @asynccontextmanager
    async def connection(
        self, *, organization_id: str | None = None, system: bool = False
    ) -> AsyncIterator[Connection]:
        """A connection of the pool; in a transaction, if it may see rows of tenants.

        Raises StoreFailure, also for what fails inside.
        """
        if organization_id is None and not system:
            async with self._connection() as connection:
                yield connection
        else:
            async with self.transaction(organization_id=organization_id, system=system) as connection:
                yield connection

    @asynccontextmanager
    async def transaction(
        self, *, organization_id: str | None = None, system: bool = False
    ) -> AsyncIterator[Connection]:
        """Likewise; what is done in the block is done whole or not at all."""
        begin = _SEES_ALL if system else _BEGIN
        if organization_id is not None and not system:
            begin = _SEES_ONE.format(organization_id.encode().hex())
        async with self._connection() as connection:
            try:
                await connection.execute(begin)
                yield connection
            except BaseException:
                with suppress(*AWAY):  # It has ended with its connection.
                    await connection.execute("ROLLBACK")
                raise
            await connection.execute("COMMIT")

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        with self._translated():
            began_s = time.perf_counter()
            async with self._place(), self._pool.acquire(timeout=self._connect_s_max) as connection:
                waited_s = time.perf_counter() - began_s
                self._metrics.acquired(waited_s)
                connection_waited(waited_s)
                self._in_use_count += 1
                try:
                    yield connection
                finally:
                    self._in_use_count -= 1
            self._metrics.answered()

    async def answers(self) -> bool:
        """Whether a call that needs the store would get an answer now."""
        try:
            async with self.connection() as connection:
                await connection.execute("SELECT 1")
        except StoreFailure:
            return False
        return True

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        try:
            with self._metrics.waiting():
                async with asyncio.timeout(WAIT_S_MAX):
                    await self._places.acquire()
        except TimeoutError:
            # Where nobody has a connection, all who have a place are trying to connect.
            if not self._in_use_count:
                self._metrics.away()
                raise StoreUnavailable from None
            self._metrics.busy()
            raise StoreBusy from None
        try:
            yield
        finally:
            self._places.release()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except AWAY as error:
            self._metrics.away()
            log.warning("store_failed", error=type(error).__name__)
            raise StoreUnavailable from error


async def _left_as_it_was(_: "asyncpg.Connection[asyncpg.Record]") -> None:
    """In place of asyncpg's own, which would ask the server each time to forget what was said of the session.

    We say nothing but for the rest of a transaction, and an open one has been rolled back by now.
    """
