"""Rows of runs, as the service knows them."""

import asyncpg
from ollamesh.agent.v1 import assistant_pb2, run_pb2

from services.agent.core.events import Status
from services.agent.core.ids import AssistantId, RunId, ThreadId
from services.agent.core.run_config import RunConfig
from services.agent.ports import RunRecord
from services.agent.wire.events import finished_from_proto, usage_from_proto
from services.agent.wire.resources import config_from_proto


def run_of(row: asyncpg.Record) -> RunRecord:
    outcome = row["outcome"]
    return RunRecord(
        run_id=RunId(row["run_id"]),
        thread_id=ThreadId(row["thread_id"]),
        position=row["position"],
        config=config_of(row),
        status=Status(row["status"]),
        usage=usage_from_proto(run_pb2.RunUsage.FromString(row["usage"])),
        outcome=finished_from_proto(run_pb2.RunEvent.Finished.FromString(outcome))
        if outcome is not None
        else None,
        create_time=row["create_time"],
        start_time=row["start_time"],
        end_time=row["end_time"],
        last_sequence=row["last_sequence"],
        is_batch=row["is_batch"],
        is_watched=row["watched_until"] is not None,
        assistant_id=row["assistant_id"] and AssistantId(row["assistant_id"]),
        assistant_version=row["assistant_version"],
    )


def config_of(row: asyncpg.Record) -> RunConfig:
    return config_from_proto(assistant_pb2.RunConfig.FromString(row["config"]))
