"""What the service serves, subject by subject, of what all of them share. A part of the composition root."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from services.agent.adapters.json_schemas import flaw_of, problem_with
from services.agent.adapters.pii_detectors import DETECTORS
from services.agent.adapters.postgres_approvals import PostgresApprovals
from services.agent.adapters.postgres_assistants import PostgresAssistants
from services.agent.adapters.postgres_events import PostgresEvents
from services.agent.approving import Approving
from services.agent.batches import Batches
from services.agent.config import Config
from services.agent.engine import Engine
from services.agent.ports import Mandates, Runs, Sessions, Threads, ToolSpec
from services.agent.rpc.approvals import ApprovalMethods
from services.agent.rpc.assistants import AssistantMethods
from services.agent.rpc.batches import BatchMethods
from services.agent.rpc.checkpoints import CheckpointMethods, Pages
from services.agent.rpc.configs import Configs
from services.agent.rpc.runs import RunMethods
from services.agent.rpc.threads import ThreadMethods
from services.agent.rpc.tools import ToolMethods
from services.agent.servicer import AgentServicer
from services.common.audit import Trail
from services.common.postgres import Database
from services.common.screening import Screen


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the subjects are made of."""

    config: Config
    database: Database
    engine: Engine
    threads: Threads
    runs: Runs
    sessions: Sessions
    mandates: Mandates
    checkpoints: Pages
    tools: Mapping[str, ToolSpec]
    screen: Screen
    trail: Trail


def servicer_of(parts: Parts) -> AgentServicer:
    config, trail = parts.config, parts.trail
    assistants = PostgresAssistants(parts.database, count_max=config.caps.assistants)
    configs = Configs(
        parts.tools,
        assistants,
        config.rules,
        default_model=config.default_model,
        schema_flaw=flaw_of,
        detectors=DETECTORS,
    )
    approving = Approving(
        runs=parts.runs,
        events=PostgresEvents(parts.database),
        approvals=PostgresApprovals(parts.database),
        tools=parts.tools,
        trail=trail,
        clock=time.time,
        problem=problem_with,
        detectors=DETECTORS,
        go_on=parts.engine.decided,
    )
    return AgentServicer(
        ApprovalMethods(approving),
        AssistantMethods(assistants, configs, trail),
        ThreadMethods(parts.engine, parts.threads, parts.sessions, trail),
        CheckpointMethods(parts.threads, parts.checkpoints),
        RunMethods(
            parts.engine, parts.runs, configs, parts.screen, approving, watched_for_s=config.watched_for_s
        ),
        BatchMethods(Batches(parts.runs, parts.mandates), configs, parts.screen),
        ToolMethods(parts.tools, config.rules),
    )
