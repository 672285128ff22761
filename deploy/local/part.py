"""A part of the stack: what the core must know of it (its node), and how it is started and asked."""

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deploy.local.core.graph import Node
from deploy.local.probes import Probe
from services.common.launch import Guard


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    argv: tuple[str, ...]
    env: Mapping[str, str]
    guard: Guard = field(default_factory=Guard)
    output: Path | None = None  # Takes stdout if the command succeeds; without it, stdout goes to the log.


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    node: Node
    run: Command
    prepare: Command | None = (
        None  # Its stderr is progress for people, and its last line the reason it failed.
    )
    probe: Probe | None = None  # None for a one-shot part.
    port: int | None = None
    port_variable: str = ""  # The setting that moves it elsewhere.
    metrics: str = ""  # The URL at which Prometheus would scrape it.
    stop_signal: int = signal.SIGTERM
    may_be_unfit: bool = False  # If it says that it cannot serve on this machine, the stack is up without it.

    def __post_init__(self) -> None:
        assert self.node.has_preparation == (self.prepare is not None)
        assert self.node.one_shot == (self.probe is None)
