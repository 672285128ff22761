"""Tenants and cost: who uses the GPUs, what that costs, what quotas refuse."""

from deploy.grafana.board import Board, Choice, Entry, Section
from deploy.grafana.panels import Limits, Panel, Query, quantiles
from deploy.grafana.promql import increase, rate, total

GPU = "ollamesh_gpu_seconds_total"
CHOSEN = 'tenant=~"$tenant"'
TOKENS = "gen_ai_client_token_usage"
WALL = 'use="wall"'
OTHERS = "Tenants are named if OLLAMESH_METRICS_TENANTS lists them; all others together are `other`."

COST = Section(
    title="GPU time and what it costs",
    panels=(
        Panel(
            title="GPU time, by tenant",
            about=f"GPUs kept busy: GPU-seconds a second. {OTHERS}",
            queries=(Query(expr=rate(GPU, CHOSEN, by=["tenant"]), legend="{{tenant}}"),),
            unit="none",
            kind="stacked",
            decimals=2,
            none="no GPU time yet",
        ),
        Panel(
            title="GPU time, by model",
            about="Which models the chosen tenants' time goes to.",
            queries=(Query(expr=rate(GPU, CHOSEN, by=["model"]), legend="{{model}}"),),
            unit="none",
            kind="stacked",
            decimals=2,
            none="no GPU time yet",
        ),
        Panel(
            title="Share of the fleet's time that is charged",
            about="GPU time of tenants, of all that instances have had. The rest is loading and idling, which nobody is charged for.",
            queries=(
                Query(
                    expr=f"{rate(GPU)} / {rate('ollamesh_instance_time_seconds', WALL)}",
                    legend="charged",
                ),
            ),
            unit="percentunit",
        ),
        Panel(
            title="Cost in the time shown",
            about="GPU-hours times the price typed above. What is charged is in the usage ledger (GetUsage), to the cent.",
            queries=(
                Query(
                    expr=f"topk(50, {increase(GPU, CHOSEN, by=['tenant', 'model'], over='$__range')} / 3600 * $price)",
                    legend="{{tenant}} {{model}}",
                ),
            ),
            unit="currencyUSD",
            kind="table",
            width=16,
            decimals=2,
            none="no GPU time yet",
        ),
        Panel(
            title="Tokens, by kind of work",
            about="Read and written, by operation.",
            queries=(
                Query(
                    expr=rate(
                        f"{TOKENS}_sum", 'job="inference"', by=["gen_ai_operation_name", "gen_ai_token_type"]
                    ),
                    legend="{{gen_ai_operation_name}} {{gen_ai_token_type}}",
                ),
            ),
            unit="short",
        ),
    ),
)

QUOTAS = Section(
    title="Quotas and rates",
    panels=(
        Panel(
            title="Refused, by quota",
            about="Requests refused because a budget is used up.",
            queries=(
                Query(expr=rate("ollamesh_quota_refusals_total", by=["quota"]), legend="{{quota}}"),
                Query(
                    expr=rate("ollamesh_auth_quota_refusals_total", by=["quota"]),
                    legend="{{quota}}, at the ledger",
                ),
            ),
            unit="reqps",
            runbook="quota-store",
            none="nothing was refused",
        ),
        Panel(
            title="Rates, by answer",
            about="What the edge was told about its callers' rates, and where it was counted: in Redis, or by each replica alone.",
            queries=(
                Query(
                    expr=rate("ollamesh_auth_rate_limit_answers_total", by=["answer", "counted"]),
                    legend="{{answer}}, counted {{counted}}",
                ),
            ),
            unit="reqps",
            kind="stacked",
            runbook="redis-down",
        ),
        Panel(
            title="Asking for budget",
            about="Waits of the requests that had to ask; most use a slice that was asked for before.",
            queries=quantiles("ollamesh_quota_reserve_seconds"),
            unit="s",
            limits=Limits(warn=0.1, bad=1),
            runbook="quota-store",
            none="nobody had to ask",
        ),
        Panel(
            title="Served without asking",
            about="Requests that were served though the ledger could not be asked; they are charged later.",
            queries=(Query(expr=increase("ollamesh_quota_unasked_total"), legend="unasked"),),
            unit="none",
            kind="bars",
            runbook="quota-store",
        ),
        Panel(
            title="Ledger operations",
            about="Time of the quota ledger in auth, to reserve and to settle.",
            queries=quantiles("ollamesh_auth_quota_ledger_seconds"),
            unit="s",
            limits=Limits(warn=0.1, bad=1),
            runbook="postgres-slow",
        ),
        Panel(
            title="Usage entries",
            about="Written to the usage ledger, or lost; and how many wait to be written.",
            queries=(
                Query(expr=rate("ollamesh_usage_entries_total", by=["outcome"]), legend="{{outcome}}/s"),
                Query(expr=total("ollamesh_usage_backlog"), legend="waiting"),
            ),
            unit="none",
            runbook="postgres-slow",
        ),
    ),
)

BATCHES = Section(
    title="Batches",
    panels=(
        Panel(
            title="Items, by how they ended",
            about="put_back: a slot was needed for somebody who waits; it is tried again.",
            queries=(Query(expr=rate("ollamesh_batch_items_total", by=["outcome"]), legend="{{outcome}}"),),
            unit="none",
            kind="stacked",
            width=12,
            none="no batch yet",
        ),
        Panel(
            title="Items at work",
            about="Batches fill idle slots; none at work while some wait means that the fleet is full.",
            queries=(Query(expr=total("ollamesh_batch_items_running"), legend="at work"),),
            unit="none",
            width=12,
        ),
    ),
)

BOARD = Board(
    name="tenants",
    title="tenants and cost",
    about="Who uses the GPUs, what that costs, and what quotas refuse.",
    choices=(Choice(name="tenant", label="Tenant", metric=GPU, of="tenant"),),
    entries=(Entry(name="price", label="Price of a GPU-hour", about="In your currency.", value="2.00"),),
    sections=(COST, QUOTAS, BATCHES),
)
