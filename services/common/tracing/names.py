"""Every name that a span of ours can have or hold: one table, which docs/tracing.md shows and a test holds to the code.

Those of OpenTelemetry's semantic conventions are used as they are; ours begin with `ollamesh.`. Values are of closed sets,
or names that the fleet knows, or numbers. What people and models wrote is in CONTENT alone, and only if the operator asks
for it (OLLAMESH_AGENT_TRACE_CONTENT).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

CODE = "rpc.grpc.status_code"
ERROR = "error.type"
CANCELLED = "CANCELLED"


@dataclass(frozen=True, slots=True)
class SpanName:
    name: str  # With {parts} that vary.
    kind: str
    of: str  # The services that record it.
    meaning: str


SPANS = (
    SpanName("{path}", "SERVER", "edge", "A request, as Envoy saw it"),
    SpanName("to {cluster}", "CLIENT", "edge", "Envoy's part of it: one try at a replica"),
    SpanName("{service}/{method}", "SERVER", "all", "A call that is answered here"),
    SpanName("{service}/{method}", "CLIENT", "all", "A call to another service, one for all its tries"),
    SpanName("invoke_agent", "INTERNAL", "agent", "A run, while it is worked on here"),
    SpanName("chat {model}", "CLIENT", "agent", "A step: the model is asked, until it has answered"),
    SpanName("execute_tool {tool}", "INTERNAL", "agent", "A call of a tool, with the wait for people"),
    SpanName("queue", "INTERNAL", "inference, sandbox", "The wait for a slot, or for a place"),
    SpanName("chat {model}", "CLIENT", "inference", "An instance answers a Chat"),
    SpanName("text_completion {model}", "CLIENT", "inference", "An instance answers a Generate"),
    SpanName("embeddings {model}", "CLIENT", "inference", "An instance embeds texts, of one call or several"),
    SpanName("POST {path}", "CLIENT", "inference", "The request to Ollama"),
    SpanName("sandbox_execution", "INTERNAL", "sandbox", "An execution, from its start to its last event"),
    SpanName("jail", "INTERNAL", "sandbox", "The wait for a jail, from the pool or made anew"),
    SpanName("program", "INTERNAL", "sandbox", "The program runs"),
    SpanName("{operation} {table}", "CLIENT", "auth, agent, inference", "A statement of PostgreSQL"),
    SpanName(
        "postgresql connection", "INTERNAL", "auth, agent, inference", "A wait for one, of 1 ms or more"
    ),
    SpanName("{command}", "CLIENT", "auth, inference", "A question to Redis; `x3`: three at once"),
)

ATTRIBUTES: Mapping[str, str] = {
    # Calls.
    "rpc.system": "`grpc`",
    "rpc.service": "Full name",
    "rpc.method": "Name",
    CODE: "As a number: 0 OK, 1 CANCELLED, 4 DEADLINE_EXCEEDED, 8 RESOURCE_EXHAUSTED, 13 INTERNAL",
    ERROR: "The reason of a failure (ErrorInfo's, where there is one), a status' name, or an error's class",
    # Generation.
    "gen_ai.operation.name": "`chat`, `text_completion`, `embeddings`, `invoke_agent`, `execute_tool`",
    "gen_ai.provider.name": "`ollamesh` as the agent asks, `ollama` as the gateway does",
    "gen_ai.request.model": "The model that was asked for",
    "gen_ai.response.model": "In its instance's spelling",
    "gen_ai.request.temperature": "If it was given",
    "gen_ai.request.seed": "If it was given",
    "gen_ai.request.max_tokens": "The run's limit for one answer",
    "gen_ai.response.finish_reasons": "`stop`, `length`, `tool_calls`",
    "gen_ai.response.time_to_first_chunk": "Seconds from asking the instance to its first token",
    "gen_ai.usage.input_tokens": "Read",
    "gen_ai.usage.output_tokens": "Written",
    "gen_ai.conversation.id": "The thread",
    "gen_ai.agent.id": "The assistant",
    "gen_ai.agent.version": "Its version",
    "gen_ai.tool.name": "A tool that there is; `_OTHER` for one that a model made up",
    "gen_ai.tool.type": "`function`",
    "gen_ai.tool.call.id": "Its place in the run",
    # Content, only if the operator asks for it.
    "gen_ai.input.messages": "What the user asked",
    "gen_ai.output.messages": "What the model wrote",
    "gen_ai.tool.call.arguments": "What the tool was given",
    "gen_ai.tool.call.result": "What it gave back",
    # What is called from here.
    "server.address": "Host of the instance",
    "server.port": "Its port",
    "http.request.method": "`POST`",
    "http.response.status_code": "Of the instance",
    "url.path": "Of Ollama's API",
    "db.system.name": "`postgresql` or `redis`",
    "db.operation.name": "A verb of SQL, or a command of Redis",
    "db.collection.name": "The table",
    "db.query.summary": "Verb and table: never the text of a statement, never its values",
    "db.operation.batch.size": "How many commands went together",
    "process.exit.code": "Of the program in the sandbox",
    # Ours.
    "ollamesh.instance": "The instance, as the fleet calls it",
    "ollamesh.queue_s": "Seconds from asking for a slot to having it; a span of its own from a millisecond on",
    "ollamesh.load_s": "Seconds that the instance loaded the model for, as it says",
    "ollamesh.prompt_s": "Seconds that it read for",
    "ollamesh.output_s": "Seconds that it wrote for",
    "ollamesh.run.id": "The run",
    "ollamesh.run.status": "How it ended",
    "ollamesh.run.is_resumed": "Whether somebody else worked on it before",
    "ollamesh.step": "Number of the step in its run",
    "ollamesh.is_remembered": "The run knew the result of an equal call",
    "ollamesh.is_cut_off": "It goes on elsewhere, or was broken off",
    "ollamesh.decision": "Of people, about a call",
    "ollamesh.execution.id": "The execution in the sandbox",
    "ollamesh.sandbox.engine": "What made its jail",
    "ollamesh.sandbox.profile": "What is in the jail",
    "ollamesh.sandbox.outcome": "`ok`, `error`, `timeout`, `oom`, `output_limit`, `signalled`, `cancelled`",
    "ollamesh.sandbox.cpu_s": "Seconds of a processor",
    "ollamesh.sandbox.peak_memory_bytes": "The most that it had",
    "ollamesh.untold_count": "Questions to stores that were too many to be told one by one",
}

EVENTS: Mapping[str, str] = {
    "first_token": "The instance has begun to answer",
    "cache_hit": "The answer is one that was given before: no instance is asked",
    "joined": "The same answer is being made for somebody else, to whose call there is a link",
    "joined_replica": "Likewise, by another replica",
    "approval_requested": "A person is asked about the call of a tool",
    "approval_resolved": "A person, or time, has decided",
}

RESOURCE: Mapping[str, str] = {
    "service.name": "`ollamesh-auth`, `-agent`, `-inference`, `-sandbox`, `-edge`",
    "service.namespace": "`ollamesh`",
    "service.version": "As OLLAMESH_VERSION says",
    "service.instance.id": "Host and process",
}

CONTENT = (
    "gen_ai.input.messages",
    "gen_ai.output.messages",
    "gen_ai.tool.call.arguments",
    "gen_ai.tool.call.result",
)


def tables() -> Iterator[str]:
    """The lines of docs/tracing.md that tell all this."""
    yield from ("| Span | Kind | Service | What it is |", "|---|---|---|---|")
    yield from (f"| `{one.name}` | {one.kind} | {one.of} | {one.meaning} |" for one in SPANS)
    for title, names in (("Attribute", ATTRIBUTES), ("Event", EVENTS), ("Of the process", RESOURCE)):
        yield from ("", f"| {title} | What it says |", "|---|---|")
        yield from (f"| `{name}` | {meaning} |" for name, meaning in names.items())
