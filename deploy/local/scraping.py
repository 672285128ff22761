"""What Prometheus and Alertmanager are told on this machine: deploy/prometheus, with our addresses and nobody to call.

Jobs keep all that is said of them but where their targets are; those that have none here, such as GPUs', are left out.
Alerts are routed, and shown by Alertmanager, and sent to no one.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from msgspec import json

DISCOVERY_SUFFIX = "_sd_configs"
STATIC = "static_configs"
Targets = Mapping[str, Sequence[str]]


def prometheus(given: str, targets: Targets, *, rules: Path) -> bytes:
    """`given` is prometheus.yml. JSON is YAML, too."""
    told = yaml.safe_load(given)
    told["scrape_configs"] = [
        _with_targets(job, targets[job["job_name"]])
        for job in told["scrape_configs"]
        if targets.get(job["job_name"])
    ]
    told["rule_files"] = [str(rules / "*.yml")]
    told["alerting"] = {"alertmanagers": [{STATIC: [{"targets": list(targets.get("alertmanager", ()))}]}]}
    return json.encode(told)


def alertmanager(given: str) -> bytes:
    """`given` is alertmanager.yml. A receiver of whom nothing but the name is known is sent nothing."""
    told = yaml.safe_load(given)
    told["receivers"] = [{"name": receiver["name"]} for receiver in told["receivers"]]
    return json.encode(told)


def _with_targets(job: Mapping[str, Any], targets: Sequence[str]) -> dict[str, Any]:
    kept = {key: value for key, value in job.items() if key != STATIC and not key.endswith(DISCOVERY_SUFFIX)}
    return {**kept, STATIC: [{"targets": list(targets)}]}
