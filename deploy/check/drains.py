"""Whether Kubernetes waits for as long as a part takes to end in good order, by the code's own constants and the settings that it is given."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deploy.check.charts import Document, of_kind, rendered
from deploy.check.pods import Pods, pods_of
from deploy.envoy.serve import OVERDUE_S
from services.common.grpc.server import FAREWELL_S

SLACK_S = 10.0  # For what is flushed and closed at the end, and for a machine that is busy.
LONGEST_ANSWER_S = 300.0  # OLLAMESH_TIMEOUT_MAX_S, unless it is set.
SERVICES = ("auth", "agent", "inference", "sandbox")


def check() -> list[str]:
    found = rendered()
    return [f"{place}: {problem}" for place, group in found.items() for problem in problems(group)]


def problems(documents: Sequence[Document]) -> Iterator[str]:
    maps = {document["metadata"]["name"]: document["data"] for document in of_kind(documents, "ConfigMap")}
    for pods in pods_of(documents):
        settings = maps.get(f"{pods.component}-settings", {})
        needed_s = _needed_s(pods, settings)
        given_s = pods.spec.get("terminationGracePeriodSeconds", 30)
        if given_s < needed_s:
            yield f"{pods.name} is killed after {given_s} s, and may need {needed_s:g} s to end."
        if pods.component == "inference" and float(settings["OLLAMESH_GRACE_S"]) < _longest_s(settings):
            yield f"{pods.name} cuts answers that may take {_longest_s(settings):g} s."
        if pods.component == "edge" and _sleep_s(pods) < 1:
            yield f"{pods.name} ends before balancers have looked away: it has no preStop."


def _needed_s(pods: Pods, settings: Mapping[str, Any]) -> float:
    if pods.component in SERVICES:
        lame_duck_s, grace_s = float(settings["OLLAMESH_LAME_DUCK_S"]), float(settings["OLLAMESH_GRACE_S"])
        return _sleep_s(pods) + lame_duck_s + grace_s + FAREWELL_S + SLACK_S
    if pods.component == "edge":
        return _sleep_s(pods) + float(settings["OLLAMESH_EDGE_STOP_DRAIN_S"]) + OVERDUE_S
    return 0.0


def _sleep_s(pods: Pods) -> float:
    """Of the preStop hook, which comes before the signal and within the grace."""
    command = (
        pods.spec["containers"][0].get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ())
    )
    return float(command[1]) if list(command[:1]) == ["sleep"] else 0.0


def _longest_s(settings: Mapping[str, Any]) -> float:
    return float(settings.get("OLLAMESH_TIMEOUT_MAX_S", LONGEST_ANSWER_S))
