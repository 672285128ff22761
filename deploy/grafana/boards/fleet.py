"""The fleet: instances, slots, the queue, what is in memory, GPUs."""

from deploy.grafana.board import Board, Choice, Section
from deploy.grafana.boards.gpus import GPUS, INSTANCE, LEGEND, OF_INSTANCE
from deploy.grafana.panels import BAD, GOOD, Limits, Panel, Query, quantiles
from deploy.grafana.promql import increase, largest, quantile, rate, total

OF_MODEL = 'model=~"$model"'
WAITS = f'{OF_MODEL}, priority!="batch"'
TIME = "ollamesh_instance_time_seconds"
USES = f'{OF_INSTANCE}, use!="wall"'
WORK = f'{OF_INSTANCE}, use=~"tenants|load"'
COUNT = f"count({largest('ollamesh_instance_ready', OF_INSTANCE, by=[INSTANCE])})"
UP = {"0": ("not ready", BAD), "1": ("ready", GOOD)}
BREAKER = {"0": ("closed", GOOD), "1": ("open", BAD)}

GLANCE = Section(
    title="At a glance",
    panels=(
        Panel(
            title="Instances ready",
            about="Ollama instances that work is sent to. None: every request waits, and then fails.",
            queries=(Query(expr=f"sum({largest('ollamesh_instance_ready', OF_INSTANCE, by=[INSTANCE])})"),),
            unit="none",
            kind="stat",
            width=4,
            height=5,
            limits=Limits(warn=1, bad=1, falling=True),
            runbook="instance-lost",
            none="no instance is known",
        ),
        Panel(
            title="Slots in use",
            about="Of the slots of all ready instances. Near 100 % new requests wait.",
            queries=(
                Query(
                    expr=f"{total('ollamesh_instance_running_requests', OF_INSTANCE)} / "
                    f"sum({largest('ollamesh_instance_slots', OF_INSTANCE, by=[INSTANCE])})"
                ),
            ),
            unit="percentunit",
            kind="stat",
            width=4,
            height=5,
            limits=Limits(warn=0.8, bad=0.95),
            runbook="overload",
        ),
        Panel(
            title="Waiting",
            about="Requests that wait for a slot.",
            queries=(Query(expr=total("ollamesh_queue_depth", OF_MODEL)),),
            unit="none",
            kind="stat",
            width=4,
            height=5,
            limits=Limits(warn=50, bad=200),
            runbook="queue-overload",
            none="0",
        ),
        Panel(
            title="Queue wait, p95",
            about="From a request's arrival to its slot. Batches, which may wait, are left out.",
            queries=(Query(expr=quantile(0.95, "ollamesh_queue_wait_seconds", WAITS)),),
            unit="s",
            kind="stat",
            width=4,
            height=5,
            limits=Limits(warn=5, bad=20),
            runbook="queue-overload",
            none="no request yet",
        ),
        Panel(
            title="Instances at work",
            about="The share of their time in which instances served somebody or loaded a model.",
            queries=(Query(expr=f"{rate(TIME, WORK)} / {COUNT}"),),
            unit="percentunit",
            kind="stat",
            width=4,
            height=5,
            limits=Limits(warn=0.85, bad=0.97),
            runbook="overload",
        ),
        Panel(
            title="Breakers open",
            about="Instances that failed so often that nothing is sent to them for a while.",
            queries=(
                Query(expr=f"sum({largest('ollamesh_instance_breaker_open', OF_INSTANCE, by=[INSTANCE])})"),
            ),
            unit="none",
            kind="stat",
            width=4,
            height=5,
            limits=Limits(warn=1, bad=2),
            runbook="instance-lost",
        ),
    ),
)

QUEUE = Section(
    title="Slots and the queue",
    panels=(
        Panel(
            title="Slots in use, by instance",
            about="One instance at 100 % beside idle ones: they lack its model, or their breakers are open.",
            queries=(
                Query(
                    expr=f"{total('ollamesh_instance_running_requests', OF_INSTANCE, by=[INSTANCE])} / "
                    f"{largest('ollamesh_instance_slots', OF_INSTANCE, by=[INSTANCE])}",
                    legend=LEGEND,
                ),
            ),
            unit="percentunit",
            top=1,
            limits=Limits(warn=0.8, bad=0.95),
            runbook="overload",
        ),
        Panel(
            title="Waiting, by priority",
            about="Batch work waits first. Interactive requests that wait mean that the fleet is too small.",
            queries=(
                Query(expr=total("ollamesh_queue_depth", OF_MODEL, by=["priority"]), legend="{{priority}}"),
            ),
            unit="none",
            kind="stacked",
            runbook="queue-overload",
        ),
        Panel(
            title="Waiting, by model",
            about="A model that waits alone has too few instances that hold it. At the limit its requests are refused.",
            queries=(
                Query(expr=total("ollamesh_queue_depth", OF_MODEL, by=["model"]), legend="{{model}}"),
                Query(expr=largest("ollamesh_queue_limit"), legend="limit"),
            ),
            unit="none",
            runbook="queue-overload",
        ),
        Panel(
            title="Queue wait",
            about="From a request's arrival to its slot. Batches, which may wait, are left out.",
            queries=(
                *quantiles("ollamesh_queue_wait_seconds", WAITS),
                Query(expr=largest("ollamesh_queue_oldest_seconds"), legend="oldest that waits now"),
            ),
            unit="s",
            limits=Limits(warn=5, bad=20),
            runbook="queue-overload",
        ),
        Panel(
            title="How waits are spread",
            about="Two bands apart: one kind of request waits for a model to load, another does not.",
            queries=(
                Query(
                    expr=increase("ollamesh_queue_wait_seconds_bucket", OF_MODEL, by=["le"]), legend="{{le}}"
                ),
            ),
            unit="s",
            kind="heat",
        ),
        Panel(
            title="Refused at admission, by reason",
            about="What the gateway refuses at once instead of letting it time out: QUEUE_FULL, DEADLINE_UNREACHABLE.",
            queries=(
                Query(expr=rate("ollamesh_admission_refusals_total", by=["reason"]), legend="{{reason}}"),
            ),
            unit="reqps",
            kind="stacked",
            runbook="queue-overload",
            none="nothing was refused",
        ),
    ),
)

INSTANCES = Section(
    title="Instances",
    panels=(
        Panel(
            title="Ready",
            about="Whether work is sent to it: it answers, and is not quarantined.",
            queries=(
                Query(expr=largest("ollamesh_instance_ready", OF_INSTANCE, by=[INSTANCE]), legend=LEGEND),
            ),
            unit="none",
            kind="states",
            words=UP,
            limits=Limits(warn=1, bad=1, falling=True),
            runbook="instance-lost",
        ),
        Panel(
            title="Breakers",
            about="Open after failures in a row; tried again by itself.",
            queries=(
                Query(
                    expr=largest("ollamesh_instance_breaker_open", OF_INSTANCE, by=[INSTANCE]), legend=LEGEND
                ),
            ),
            unit="none",
            kind="states",
            words=BREAKER,
            limits=Limits(warn=1, bad=1),
            runbook="instance-lost",
        ),
        Panel(
            title="What instances do",
            about="Their time by use: for tenants, loading models, idle. Much loading: models do not fit beside each other.",
            queries=(Query(expr=rate(TIME, USES, by=["use"]), legend="{{use}}"),),
            unit="none",
            kind="stacked",
            runbook="model-load-fails",
        ),
        Panel(
            title="Requests at work",
            about="Slots in use.",
            queries=(
                Query(
                    expr=total("ollamesh_instance_running_requests", OF_INSTANCE, by=[INSTANCE]),
                    legend=LEGEND,
                ),
            ),
            unit="none",
        ),
        Panel(
            title="Requests that wait, by instance",
            about="Shared out over the instances that have their model.",
            queries=(
                Query(
                    expr=total("ollamesh_instance_queued_requests", OF_INSTANCE, by=[INSTANCE]), legend=LEGEND
                ),
            ),
            unit="none",
        ),
        Panel(
            title="From a caller's leaving to an idle slot",
            about="How long abandoned answers go on costing GPU time.",
            queries=quantiles("ollamesh_cancel_to_idle_seconds"),
            unit="s",
            limits=Limits(warn=0.5, bad=2),
            none="nobody has left",
        ),
    ),
)

RESIDENCY = Section(
    title="Models in memory",
    panels=(
        Panel(
            title="Models in memory, by instance",
            about="Those that answer without being loaded first.",
            queries=(
                Query(
                    expr=largest("ollamesh_instance_resident_models", OF_INSTANCE, by=[INSTANCE]),
                    legend=LEGEND,
                ),
            ),
            unit="none",
        ),
        Panel(
            title="Loads, by cause",
            about="demand: the queue asked; spread: one more instance for a busy model; request: a caller's LoadModel. Many: they push each other out.",
            queries=(
                Query(
                    expr=increase("ollamesh_model_loads_total", OF_MODEL, by=["cause"]), legend="{{cause}}"
                ),
                Query(expr=increase("ollamesh_model_load_failures_total", OF_MODEL), legend="failed"),
            ),
            unit="none",
            kind="bars",
            runbook="model-load-fails",
            none="nothing was loaded",
        ),
        Panel(
            title="Memory of instances in use",
            about="What their models take of what they have, as far as it is known.",
            queries=(
                Query(
                    expr=f"{largest('ollamesh_instance_memory_used_bytes', OF_INSTANCE, by=[INSTANCE])} / "
                    f"{largest('ollamesh_instance_memory_bytes', OF_INSTANCE, by=[INSTANCE])}",
                    legend=LEGEND,
                ),
            ),
            unit="percentunit",
            top=1,
            limits=Limits(warn=0.9, bad=0.97),
            runbook="gpu",
            none="their memory is not known",
        ),
        Panel(
            title="Most loaded models",
            about="Loads within the time shown.",
            queries=(
                Query(
                    expr=f"topk(10, {increase('ollamesh_model_loads_total', OF_MODEL, by=['model'], over='$__range')})",
                    legend="{{model}}",
                ),
            ),
            unit="none",
            kind="table",
            width=24,
            height=7,
            decimals=0,
            none="nothing was loaded",
        ),
    ),
)

BOARD = Board(
    name="fleet",
    title="fleet",
    about="Ollama instances: slots, the queue, models in memory, GPUs. Start here when answers are slow.",
    choices=(
        Choice(name="ollama", label="Instance", metric="ollamesh_instance_ready", of=INSTANCE),
        Choice(name="model", label="Model", metric="ollamesh_queue_depth", of="model"),
    ),
    sections=(GLANCE, QUEUE, INSTANCES, RESIDENCY, GPUS),
)
