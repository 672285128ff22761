"""The section of GPUs, as the gateways that own them read them; empty where there are none."""

from deploy.grafana.board import Section
from deploy.grafana.panels import Limits, Panel, Query
from deploy.grafana.promql import largest, total

# Prometheus calls its own target `instance`, so our label of that name arrives as `exported_instance`.
INSTANCE = "exported_instance"
OF_INSTANCE = f'{INSTANCE}=~"$ollama"'
LEGEND = "{{" + INSTANCE + "}}"
NO_GPU = "no GPU is read here"

GPUS = Section(
    title="GPUs",
    panels=(
        Panel(
            title="GPU utilisation",
            about="As the driver tells. Low while requests wait: look at loads, and at what the CPU does.",
            queries=(
                Query(
                    expr=largest("ollamesh_gpu_utilization_ratio", OF_INSTANCE, by=[INSTANCE, "gpu"]),
                    legend=f"{LEGEND} GPU {{{{gpu}}}}",
                ),
            ),
            unit="percentunit",
            top=1,
            width=6,
            runbook="gpu",
            none=NO_GPU,
        ),
        Panel(
            title="GPU memory",
            about="Used of what there is.",
            queries=(
                Query(
                    expr=f"{largest('ollamesh_gpu_memory_used_bytes', OF_INSTANCE, by=[INSTANCE, 'gpu'])} / "
                    f"{largest('ollamesh_gpu_memory_bytes', OF_INSTANCE, by=[INSTANCE, 'gpu'])}",
                    legend=f"{LEGEND} GPU {{{{gpu}}}}",
                ),
            ),
            unit="percentunit",
            top=1,
            width=6,
            limits=Limits(warn=0.92, bad=0.98),
            runbook="gpu",
            none=NO_GPU,
        ),
        Panel(
            title="GPU temperature",
            about="Above 85 °C most GPUs slow themselves down.",
            queries=(
                Query(
                    expr=largest("ollamesh_gpu_temperature_celsius", OF_INSTANCE, by=[INSTANCE, "gpu"]),
                    legend=f"{LEGEND} GPU {{{{gpu}}}}",
                ),
            ),
            unit="celsius",
            width=6,
            limits=Limits(warn=80, bad=87),
            runbook="gpu",
            none=NO_GPU,
        ),
        Panel(
            title="GPU power",
            about="What they draw.",
            queries=(
                Query(
                    expr=largest("ollamesh_gpu_power_watts", OF_INSTANCE, by=[INSTANCE, "gpu"]),
                    legend=f"{LEGEND} GPU {{{{gpu}}}}",
                ),
            ),
            unit="watt",
            width=6,
            none=NO_GPU,
        ),
        Panel(
            title="GPUs, by state",
            about="lost: seen or held once, and silent now. Its instance cannot serve; look at the machine.",
            queries=(Query(expr=total("ollamesh_gpus", by=["state"]), legend="{{state}}"),),
            unit="none",
            kind="stat",
            width=12,
            height=4,
            runbook="gpu",
            none=NO_GPU,
        ),
        Panel(
            title="GPU faults (DCGM)",
            about="XID errors that NVIDIA's exporter saw, where it runs. 79: the GPU fell off the bus.",
            queries=(
                Query(
                    expr="max by (Hostname, gpu) (DCGM_FI_DEV_XID_ERRORS)",
                    legend="{{Hostname}} GPU {{gpu}}",
                ),
            ),
            unit="none",
            kind="stat",
            width=12,
            height=4,
            limits=Limits(warn=1, bad=1),
            runbook="gpu",
            none="no DCGM exporter",
        ),
    ),
)
