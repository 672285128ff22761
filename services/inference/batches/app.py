"""The parts of batches, put together: a branch of the composition root."""

from prometheus_client import CollectorRegistry

from services.common.postgres import Database
from services.inference.adapters.postgres_batch_items import PostgresBatchItems
from services.inference.adapters.postgres_batches import PostgresBatches
from services.inference.adapters.postgres_files import PostgresFiles
from services.inference.batches.answering import Answers
from services.inference.batches.config import BatchConfig
from services.inference.batches.intake import Intake
from services.inference.batches.servicer import BatchDesk
from services.inference.batches.telemetry import BatchMetrics
from services.inference.batches.worker import BatchWorker
from services.inference.core.bounds import Policies
from services.inference.gateway import Gateway

FILES_KEPT_S = 30 * 86_400.0


def batch_desk(
    config: BatchConfig,
    database: Database,
    gateway: Gateway,
    *,
    policies: Policies,
    registry: CollectorRegistry,
) -> BatchDesk:
    """The batches of one process that carries streams."""
    batches = PostgresBatches(database, open_max=config.open_max)
    worker = BatchWorker(
        PostgresBatchItems(database, lease_s=config.lease_s),
        Answers(gateway, policies).answer,
        BatchMetrics(registry),
        places=config.workers,
        lease_s=config.lease_s,
        sweep_every_s=config.sweep_every_s,
    )
    return BatchDesk(
        batches=batches,
        files=PostgresFiles(database, bytes_max=config.file_bytes_max, kept_s=FILES_KEPT_S),
        intake=Intake(batches, gateway.budgets, bytes_max=config.bytes_max),
        worker=worker,
        policies=policies,
    )
