"""`python -m tests.bench.support.untold`: the inference service, but that it tells nothing: no metrics, logs or spans.

What is counted is still asked to be counted; what is asked does nothing.
"""

import logging
import sys
from typing import Any

import structlog
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from services.common import main, telemetry
from services.common.grpc.around import Around, Context, Rest


def _nothing(*_: object, **__: object) -> None: ...


def _itself(one: Any, *_: object, **__: object) -> Any:
    return one


def _plain(*_: object) -> Around:
    async def around(_method: str, _context: Context, rest: Rest) -> object:
        return await rest()

    return around


def _configure_logging(_service: str, **_: object) -> None:
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def _mute() -> None:
    for kind, methods in ((Counter, ("inc",)), (Gauge, ("inc", "dec", "set")), (Histogram, ("observe",))):
        for name in methods:
            setattr(kind, name, _nothing)
    for place, name, instead in (
        (MetricWrapperBase, "labels", _itself),
        (telemetry, "telemetry", _plain),
        (main, "configure_logging", _configure_logging),
    ):
        setattr(place, name, instead)


if __name__ == "__main__":
    _mute()
    from services.inference.app import run
    from services.inference.config import Config

    sys.exit(main.run_service("inference", Config.read, run))
