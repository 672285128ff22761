"""Whether commands that tests do not run could be run: they exist, and so do their options, kinds and names."""

import re
import shlex
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import click
import yaml

from clients.cli.main import LazyGroup
from deploy.grafana.promql import selectors
from deploy.runbooks.pages import Command
from tools.metrics_catalogue import catalogue

DEPLOY = Path(__file__).parents[1]
VERBS = frozenset(
    [
        "get",
        "describe",
        "logs",
        "exec",
        "top",
        "delete",
        "rollout",
        "patch",
        "cordon",
        "drain",
        "port-forward",
        "apply",
        "wait",
        "label",
        "annotate",
        "events",
    ]
)
# What clusters have without us.
KINDS = frozenset(
    [
        "node",
        "pod",
        "event",
        "endpointslice",
        "secret",
        "persistentvolumeclaim",
        "runtimeclass",
        "certificaterequest",
        "backup",
        "job",
    ]
)
TAKES_NO_KIND = frozenset({"logs", "exec", "cordon", "drain", "top", "events"})
THEIRS = frozenset({"cert-manager", "monitoring"})  # Namespaces that are not ours.
HELM = frozenset({"history", "rollback", "status", "get", "upgrade"})


def problems(commands: Iterable[Command]) -> Iterator[str]:
    for command in commands:
        for words in simple_commands(command.line):
            problem = _problem(words)
            if problem is not None:
                yield f"{command.page}.md: `{command.line}`: {problem}."


def simple_commands(line: str) -> Iterator[list[str]]:
    """What a line of the shell runs, one after the other."""
    words: list[str] = []
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    for word in lexer:
        if word in {"|", "||", "&&", ";"}:
            yield words
            words = []
        else:
            words.append(word)
    yield words


def _problem(words: list[str]) -> str | None:
    program = words[0] if words else ""
    if program == "ollamesh":
        return _of_cli(words[1:]) or _of_metrics(words[1:])
    if program == "kubectl" and not (THEIRS & set(words)):
        return _of_kubectl([word for word in words[1:] if not word.startswith("--")])
    if program == "helm" and not HELM & set(words):
        return "helm has no such verb"
    if program == "promtool" and "query" in words:
        return _of_promql(words[-1])
    return None


def _of_cli(words: list[str]) -> str | None:
    """By click itself, which knows every command and option."""
    command: click.Command = LazyGroup("ollamesh")
    context = click.Context(command, info_name="ollamesh")
    while isinstance(command, click.Group):
        if not words:
            return "it names no command"
        found = command.get_command(context, words[0])
        if found is None:
            return f"there is no command {words[0]}"
        command, words = found, words[1:]
        context = click.Context(command, info_name=command.name, parent=context, **command.context_settings)
    try:
        command.make_parser(context).parse_args([word for word in words if word not in {">", "/dev/null"}])
    except click.UsageError as error:
        return error.message
    return None


def _of_metrics(words: list[str]) -> str | None:
    """What begins so must be documented: a slip would print nothing, which looks like calm."""
    if words[0] != "metrics":
        return None
    known = {name for entry in catalogue().values() for name in (entry.name, *entry.series)}
    for prefix in words[2:]:
        if not prefix.startswith("envoy_") and not any(name.startswith(prefix) for name in known):
            return f"docs/metrics.md has nothing that begins with {prefix}"
    return None


def _of_promql(query: str) -> str | None:
    try:
        list(selectors(query))
    except ValueError as error:
        return f"no PromQL: {error}"
    return None


def _of_kubectl(words: list[str]) -> str | None:
    if "scale" in words[:3]:
        return "autoscalers undo it, and edge and gateways know no more sandboxes and instances than the chart told them of"
    if "delete" in words[:3] and "-l" in words:
        return "it ends all of them at once"
    words = [word for index, word in enumerate(words) if not _belongs_to_flag(words, index)]
    if not words or words[0] not in VERBS:
        return f"kubectl has no verb {words[0] if words else ''}"
    verb, rest = words[0], words[1:]
    if verb == "rollout":
        rest = rest[1:]
    if verb in TAKES_NO_KIND:
        return _of_object(rest[0]) if rest and "/" in rest[0] else None
    if not rest:
        return "it names nothing"
    kind, _, name = rest[0].partition("/")
    if not name and len(rest) > 1:
        name = rest[1]
    return _of_object(f"{kind}/{name}")


def _belongs_to_flag(words: list[str], index: int) -> bool:
    """A short flag, or what follows one that takes a value."""
    return words[index].startswith("-") or (index > 0 and words[index - 1] in {"-n", "-l", "-o", "-c", "-p"})


def _of_object(kind_and_name: str) -> str | None:
    kind, _, name = kind_and_name.partition("/")
    singular = re.sub(r"ies$", "y", kind.lower().partition(".")[0])
    kinds = {known for known, _ in objects()} | KINDS
    matched = next((each for each in kinds if singular in {each, f"{each}s", f"{each}es"}), None)
    if matched is None:
        return f"nothing of kind {kind} is deployed"
    known = {each for known_kind, each in objects() if known_kind == matched}
    if name and matched not in KINDS and known and name not in known and not name.isupper():
        return f"there is no {matched} {name}, only {', '.join(sorted(known))}"
    return None


@cache
def objects() -> frozenset[tuple[str, str]]:
    """Kind, in small letters, and name of all that the chart's base and the stores' manifests make."""
    found = {
        ("deployment", "backup"),
        ("persistentvolumeclaim", "backup"),
        ("podmonitor", ""),
        ("prometheusrule", ""),
        ("externalsecret", ""),
    }
    for path in [*(DEPLOY / "kustomize/base").glob("*.yaml"), *(DEPLOY / "helm/stores").glob("*.yaml")]:
        for document in yaml.safe_load_all(path.read_text()):
            if document and "metadata" in document:
                found.add((document["kind"].lower(), document["metadata"]["name"]))
    return frozenset(found)
