"""Agents and the sandbox: runs, their steps and tools, and what is executed for them."""

from deploy.grafana.board import Board, Choice, Section
from deploy.grafana.panels import BAD, GOOD, Limits, Panel, Query, quantiles
from deploy.grafana.promql import increase, mean, quantile, rate, total

OF_MODEL = 'model=~"$model"'
RUN_OF_MODEL = 'gen_ai_request_model=~"$model"'
TOOL = "gen_ai_execute_tool_duration_seconds"
UP = {"0": ("down", BAD), "1": ("up", GOOD)}

RUNS = Section(
    title="Runs",
    panels=(
        Panel(
            title="Runs, by how they ended",
            about="limited: a run met one of its own limits (turns, tokens, seconds), which is no fault of ours.",
            queries=(Query(expr=rate("agent_requests_total", OF_MODEL, by=["status"]), legend="{{status}}"),),
            unit="none",
            kind="stacked",
            decimals=2,
            runbook="runs-stuck",
            none="no run has ended",
        ),
        Panel(
            title="Runs now",
            about="At work, and waiting for a worker; the line is how many can work at once.",
            queries=(
                Query(expr=total("ollamesh_agent_runs", by=["state"]), legend="{{state}}"),
                Query(expr=total("ollamesh_agent_workers_max"), legend="limit"),
            ),
            unit="none",
            runbook="runs-stuck",
        ),
        Panel(
            title="Wait for a worker",
            about="From a run's place here to its turn.",
            queries=quantiles("ollamesh_agent_run_wait_seconds"),
            unit="s",
            limits=Limits(warn=5, bad=30),
            runbook="runs-stuck",
            none="no run yet",
        ),
        Panel(
            title="How long runs work",
            about="Waits for people not counted.",
            queries=quantiles("gen_ai_invoke_agent_duration_seconds", RUN_OF_MODEL),
            unit="s",
            none="no run has ended",
        ),
        Panel(
            title="Steps and tools, on average of a run",
            about="Calls of the model and of tools. Rising: runs go in circles.",
            queries=(
                Query(expr=mean("gen_ai_invoke_agent_inference_calls", RUN_OF_MODEL), legend="steps"),
                Query(expr=mean("gen_ai_invoke_agent_tool_calls", RUN_OF_MODEL), legend="tools"),
            ),
            unit="none",
            decimals=1,
            none="no run has ended",
        ),
        Panel(
            title="Tokens of agents",
            about="Read and written in steps.",
            queries=(
                Query(
                    expr=rate(
                        "gen_ai_client_token_usage_sum",
                        f'job="agent", {RUN_OF_MODEL}',
                        by=["gen_ai_token_type"],
                    ),
                    legend="{{gen_ai_token_type}}",
                ),
            ),
            unit="short",
        ),
        Panel(
            title="Lost and resumed",
            about="Resumed: another replica went on with a run whose replica was lost. Lost: nobody could.",
            queries=(
                Query(expr=increase("ollamesh_agent_runs_resumed_total"), legend="resumed"),
                Query(expr=increase("ollamesh_agent_runs_lost_total"), legend="lost"),
            ),
            unit="none",
            kind="bars",
            runbook="runs-stuck",
        ),
        Panel(
            title="Approvals",
            about="Questions to people, asked and decided. Many that expire: nobody looks.",
            queries=(
                Query(
                    expr=increase("ollamesh_agent_approvals_total", by=["decision"]), legend="{{decision}}"
                ),
            ),
            unit="none",
            kind="bars",
            none="nobody was asked",
        ),
        Panel(
            title="Suspicious prompts",
            about="Prompts in which a phrase of an attack was found, by what was done about it.",
            queries=(Query(expr=increase("ollamesh_prompt_patterns_total", by=["mode"]), legend="{{mode}}"),),
            unit="none",
            kind="bars",
            none="none was found",
        ),
    ),
)

TOOLS = Section(
    title="Tools",
    panels=(
        Panel(
            title="Calls, by tool",
            about="Ended, whether well or not.",
            queries=(
                Query(expr=rate(f"{TOOL}_count", by=["gen_ai_tool_name"]), legend="{{gen_ai_tool_name}}"),
            ),
            unit="none",
            kind="stacked",
            decimals=2,
            none="no tool was called",
        ),
        Panel(
            title="Calls that failed, by tool",
            about="The model is told and usually tries otherwise. One tool alone: look at what is behind it.",
            queries=(
                Query(
                    expr=rate(f"{TOOL}_count", 'error_type!=""', by=["gen_ai_tool_name", "error_type"]),
                    legend="{{gen_ai_tool_name}}: {{error_type}}",
                ),
            ),
            unit="none",
            kind="stacked",
            decimals=2,
            runbook="runs-stuck",
            none="no call failed",
        ),
        Panel(
            title="Time of calls, p95",
            about="From a call to its result.",
            queries=(
                Query(expr=quantile(0.95, TOOL, by=["gen_ai_tool_name"]), legend="{{gen_ai_tool_name}}"),
            ),
            unit="s",
            none="no tool was called",
        ),
        Panel(
            title="MCP servers",
            about="Whether each is connected.",
            queries=(Query(expr="min by (server) (ollamesh_agent_mcp_server_up)", legend="{{server}}"),),
            unit="none",
            kind="states",
            words=UP,
            width=12,
            limits=Limits(warn=1, bad=1, falling=True),
            runbook="runs-stuck",
            none="no MCP server is configured",
        ),
        Panel(
            title="MCP calls, and tools that were refused",
            about="Refused: a server lists a tool otherwise than it was reviewed. Review it again, or ask its owner.",
            queries=(
                Query(
                    expr=increase("ollamesh_agent_mcp_calls_total", by=["server", "outcome"]),
                    legend="{{server}}: {{outcome}}",
                ),
                Query(
                    expr=increase("ollamesh_agent_mcp_tools_refused_total", by=["server", "reason"]),
                    legend="{{server}}: refused, {{reason}}",
                ),
            ),
            unit="none",
            kind="bars",
            width=12,
            runbook="runs-stuck",
            none="no MCP server is configured",
        ),
    ),
)

SANDBOX = Section(
    title="Sandbox",
    panels=(
        Panel(
            title="Engines",
            about="Whether programs can be run, by engine and profile.",
            queries=(
                Query(
                    expr="min by (engine, profile) (ollamesh_sandbox_engine_up)",
                    legend="{{engine}} {{profile}}",
                ),
            ),
            unit="none",
            kind="states",
            words=UP,
            limits=Limits(warn=1, bad=1, falling=True),
            runbook="sandbox-unavailable",
        ),
        Panel(
            title="Executions, by outcome",
            about="Codes, signals and limits are the programs' own; SANDBOX_UNAVAILABLE and LOST are ours.",
            queries=(
                Query(expr=rate("ollamesh_sandbox_executions_total", by=["outcome"]), legend="{{outcome}}"),
            ),
            unit="none",
            kind="stacked",
            decimals=2,
            runbook="sandbox-unavailable",
            none="nothing was executed",
        ),
        Panel(
            title="Refused",
            about="Executions that were not accepted, by reason.",
            queries=(Query(expr=rate("ollamesh_sandbox_refused_total", by=["reason"]), legend="{{reason}}"),),
            unit="none",
            kind="stacked",
            decimals=2,
            runbook="sandbox-unavailable",
            none="nothing was refused",
        ),
        Panel(
            title="Wait for a jail",
            about="A warm jail is there at once; a cold one takes a tenth of a second and more.",
            queries=quantiles("ollamesh_sandbox_queue_seconds"),
            unit="s",
            limits=Limits(warn=1, bad=5),
            runbook="sandbox-unavailable",
            none="nothing was executed",
        ),
        Panel(
            title="Time of programs",
            about="From a program's start until nothing of it was left.",
            queries=quantiles("ollamesh_sandbox_wall_seconds"),
            unit="s",
            none="nothing was executed",
        ),
        Panel(
            title="Warm jails",
            about="Ready before anybody asks, by engine and profile. None: executions start cold.",
            queries=(
                Query(
                    expr=total("ollamesh_sandbox_warm_jails", by=["engine", "profile"]),
                    legend="{{engine}} {{profile}}",
                ),
            ),
            unit="none",
            runbook="sandbox-unavailable",
        ),
        Panel(
            title="Places",
            about="Executions that have one, and those that wait for one; sessions hold theirs.",
            queries=(
                Query(expr=total("ollamesh_sandbox_running"), legend="at work"),
                Query(expr=total("ollamesh_sandbox_waiting"), legend="waiting"),
                Query(expr=total("ollamesh_sandbox_sessions"), legend="sessions"),
            ),
            unit="none",
            runbook="sandbox-unavailable",
        ),
        Panel(
            title="Memory given out",
            about="The limits of all that has a place, of what they may be together.",
            queries=(
                Query(expr=total("ollamesh_sandbox_memory_reserved_bytes"), legend="given out"),
                Query(expr=total("ollamesh_sandbox_memory_budget_bytes"), legend="limit"),
            ),
            unit="bytes",
            runbook="sandbox-unavailable",
        ),
        Panel(
            title="Sessions that ended",
            about="Why sessions ended, and why their interpreters were replaced.",
            queries=(
                Query(
                    expr=increase("ollamesh_sandbox_sessions_ended_total", by=["cause"]),
                    legend="ended: {{cause}}",
                ),
                Query(
                    expr=increase("ollamesh_sandbox_session_restarts_total", by=["cause"]),
                    legend="restarted: {{cause}}",
                ),
            ),
            unit="none",
            kind="bars",
            none="no session has ended",
        ),
    ),
)

BOARD = Board(
    name="agents",
    title="agents and sandbox",
    about="Runs, their steps, tools and approvals, and the programs that are run for them.",
    choices=(Choice(name="model", label="Model", metric="agent_requests_total", of="model"),),
    sections=(RUNS, TOOLS, SANDBOX),
)
