"""What a process has in common with the other replicas, put together."""

import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from services.inference.adapters.redis_link import RedisLink
from services.inference.adapters.redis_streams import RedisStreams
from services.inference.adapters.seals import Seals
from services.inference.charging import Record
from services.inference.config import Config, SharedConfig
from services.inference.core.admission import Order, admit
from services.inference.core.asks import Chat, Generate
from services.inference.core.bounds import Bounds
from services.inference.core.ledger import Ledger
from services.inference.core.secret_names import Names
from services.inference.desk import Desk
from services.inference.streams.ids import StreamIds
from services.inference.streams.means import Means
from services.inference.streams.registry import Streams
from services.inference.wire.frames import frame

# Another replica has accepted it already, by bounds that this one does not know.
_ACCEPTED = Bounds(
    prompt_code_points_max=1 << 20, temperature_max=2.0, output_token_count_max=1 << 20, timeout_s_max=86_400
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """The Redis of all replicas, if there is one; and the secret by which they know each other's names."""

    link: RedisLink | None
    secret_key: str
    encryption_keys: Sequence[str]
    background: Sequence[Callable[[], Coroutine[None, None, None]]]


@asynccontextmanager
async def share(config: SharedConfig | None) -> AsyncIterator[Shared]:
    """Reach for what is shared. Without a configuration this process is alone, with a secret of its own."""
    if config is None:
        yield Shared(link=None, secret_key=secrets.token_hex(32), encryption_keys=(), background=())
        return
    async with RedisLink.opened(config.redis_url, timeout_s=config.timeout_s) as link:
        yield Shared(
            link=link,
            secret_key=config.secret_key,
            encryption_keys=config.encryption_keys,
            background=(link.run,),
        )


@asynccontextmanager
async def streams_of(
    config: Config, desk: Desk, ledger: Ledger, shared: Shared, record: Record
) -> AsyncIterator[Streams]:
    """The streams of this process. What is left of them is written at the end."""

    def readmit(ask: Chat | Generate, tenant: str) -> Order:
        return admit(ask, tenant=tenant, ledger=ledger, bounds=_ACCEPTED, catalog=config.catalog)

    process_id = secrets.token_hex(8)
    logs = None
    if shared.link is not None:
        seals = Seals(shared.encryption_keys, purpose="streams")
        logs = RedisStreams(shared.link, seals, process_id=process_id, kept_s=config.streams.kept_s)
    streams = Streams(
        Means(
            desk=desk,
            seal=frame,
            ids=StreamIds(shared.secret_key.encode()),
            names=Names(shared.secret_key, purpose="streams"),
            shared=logs,
            limits=config.streams,
            lag_bytes_max=config.reader_buffer_bytes_max,
            process_id=process_id,
            record=record,
            readmit=readmit,
        )
    )
    try:
        yield streams
    finally:
        await streams.close()
