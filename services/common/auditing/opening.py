"""A service's trail, put together."""

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import structlog
from prometheus_client import CollectorRegistry

from services.common.auditing.config import AuditConfig
from services.common.auditing.metrics import AuditMetrics
from services.common.auditing.spool import Spool
from services.common.auditing.trail import BufferedTrail, Deliver

log = structlog.get_logger(__name__)


@asynccontextmanager
async def opened_trail(
    config: AuditConfig, service: str, deliver: Deliver, registry: CollectorRegistry
) -> AsyncIterator[BufferedTrail]:
    """A trail with its spool, for as long as the service runs. What `deliver` uses must outlive it."""
    with ExitStack() as opened:
        spool = None
        if config.spool is None:
            log.warning("no_audit_spool", means="events wait in memory only", mend="set OLLAMESH_AUDIT_SPOOL")
        else:
            spool = opened.enter_context(
                Spool.opened(config.spool, service, bytes_max=config.spool_bytes_max)
            )
        metrics = AuditMetrics(registry)
        async with BufferedTrail.opened(service, deliver, spool=spool, metrics=metrics) as trail:
            yield trail
