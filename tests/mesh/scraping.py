"""The metrics of a running stack, as Prometheus would get them."""

from collections.abc import Mapping
from urllib.request import urlopen

import psutil
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from deploy.local import stack
from deploy.local.settings import Settings, port_variable
from tools.metrics_catalogue import SERVICES

WITHIN_S = 60.0


def text_of(settings: Settings, service: str) -> str:
    (pid,) = (part.pid for part in stack.status(settings).parts if part.name == service)
    port = psutil.Process(pid).environ()[port_variable(f"{service}_metrics")]
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=WITHIN_S) as answer:
        text: str = answer.read().decode()
    return text


def families(text: str) -> Mapping[str, Metric]:
    """By the name that it has where it is scraped."""
    found = text_string_to_metric_families(text)
    return {f"{each.name}_total" if each.type == "counter" else each.name: each for each in found}


def scraped(settings: Settings) -> Mapping[str, Mapping[str, Metric]]:
    """Of every service."""
    return {service: families(text_of(settings, service)) for service in SERVICES}


def series_count(metrics: Mapping[str, Metric]) -> int:
    return sum(len(metric.samples) for metric in metrics.values())
