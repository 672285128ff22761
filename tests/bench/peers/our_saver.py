"""Our checkpointer, as the agent service uses it: `our_saver.py DSN SECONDS CONCURRENCY` prints cycles/s.

Sealed, each run's under its lease, each transaction within one organisation's rows.
"""

import sys
from uuid import UUID, uuid4

import uvloop
from cryptography.fernet import Fernet

from services.agent.adapters.checkpoints import SEAL_PURPOSE, Checkpoints
from services.agent.core.ids import RunId
from services.agent.leases import Lease
from services.common.postgres import Connection, Database
from services.common.seals import Seals
from tests.bench.peers.saver_cycles import cycles_per_s

ORGANIZATION = "org"
FENCE = 7
THREAD = "INSERT INTO threads (thread_id, organization_id, user_id, payload) VALUES ($1, $2, 'ann', '')"
RUN = """
    INSERT INTO runs (run_id, thread_id, input, config, holder, lease_until, fence)
    VALUES ($1, $2, '', '', $3, now() + interval '1 hour', $4)
"""


async def lease(connection: Connection, holder: UUID) -> Lease:
    """A run that is held."""
    run_id, thread_id = RunId(uuid4()), uuid4()
    await connection.execute(THREAD, thread_id, ORGANIZATION)
    await connection.execute(RUN, run_id, thread_id, holder, FENCE)
    return Lease(run_id=run_id, holder=holder, fence=FENCE)


async def main(dsn: str, seconds: float, concurrency: int) -> None:
    async with Database.connect(dsn, connections_max=concurrency) as database:
        holder = uuid4()
        async with database.transaction(organization_id=ORGANIZATION) as connection:
            leases = [await lease(connection, holder) for _ in range(concurrency)]
        every = Checkpoints(database, Seals([Fernet.generate_key().decode()], purpose=SEAL_PURPOSE))
        savers = [(str(one.run_id), every.of(ORGANIZATION, one)) for one in leases]
        await cycles_per_s(savers, seconds / 4)  # Connections and plans are made.
        print(await cycles_per_s(savers, seconds))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3])))
