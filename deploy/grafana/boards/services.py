"""Services: their processes, event loops, calls, certificates, logs and spans."""

from deploy.grafana.board import Board, Choice, Section
from deploy.grafana.panels import BAD, GOOD, Limits, Panel, Query
from deploy.grafana.promql import increase, mean, quantile, rate, total

OF = 'job=~"$service", instance=~"$instance"'
EACH, LEGEND = ("job", "instance"), "{{job}} {{instance}}"
UP = {"0": ("down", BAD), "1": ("up", GOOD)}
READY = {"0": ("not ready", BAD), "1": ("ready", GOOD)}
LAG = "ollamesh_event_loop_lag_seconds"
HOUR_S, DAY_S = 3_600, 86_400
EXPIRES = "ssl_certificate_expiration_unix_time_seconds"

PROCESSES = Section(
    title="Processes",
    panels=(
        Panel(
            title="Scraped",
            about="Whether Prometheus reaches each target.",
            queries=(Query(expr="min by (job, instance) (up)", legend=LEGEND),),
            unit="none",
            kind="states",
            words=UP,
            limits=Limits(warn=1, bad=1, falling=True),
            runbook="service-down",
        ),
        Panel(
            title="Ready",
            about="What each service itself says of its readiness: whether calls are sent to it.",
            queries=(Query(expr=f"min by (job, instance) (ollamesh_ready{{{OF}}})", legend=LEGEND),),
            unit="none",
            kind="states",
            words=READY,
            limits=Limits(warn=1, bad=1, falling=True),
            runbook="service-down",
        ),
        Panel(
            title="Running since",
            about="Many short lives: look at the log's last lines before each start.",
            queries=(
                Query(
                    expr=f"time() - min by (job, instance) (process_start_time_seconds{{{OF}}})",
                    legend=LEGEND,
                ),
            ),
            unit="s",
            runbook="service-down",
        ),
        Panel(
            title="CPU",
            about="Processors in use. A service's loop is one thread: near 1 it is full, whatever the machine has.",
            queries=(Query(expr=rate("process_cpu_seconds_total", OF, by=EACH), legend=LEGEND),),
            unit="none",
            decimals=2,
            limits=Limits(warn=0.8, bad=0.95),
            runbook="overload",
        ),
        Panel(
            title="Memory",
            about="Resident. It grows into its work for some minutes; rising for hours is a leak.",
            queries=(Query(expr=total("process_resident_memory_bytes", OF, by=EACH), legend=LEGEND),),
            unit="bytes",
            runbook="memory",
        ),
        Panel(
            title="Open files",
            about="Of what each may have open; connections are files.",
            queries=(
                Query(
                    expr=f"{total('process_open_fds', OF, by=EACH)} / {total('process_max_fds', OF, by=EACH)}",
                    legend=LEGEND,
                ),
            ),
            unit="percentunit",
            top=1,
            limits=Limits(warn=0.7, bad=0.9),
            runbook="overload",
        ),
    ),
)

LOOPS = Section(
    title="Event loops",
    panels=(
        Panel(
            title="Lag, p99",
            about="How late the loop ran what was due. What holds it up holds up every stream of the process.",
            queries=(Query(expr=quantile(0.99, LAG, OF, by=EACH), legend=LEGEND),),
            unit="s",
            limits=Limits(warn=0.05, bad=0.25),
            runbook="latency",
        ),
        Panel(
            title="Lag, mean",
            about="What every step of every call waits, on average.",
            queries=(Query(expr=mean(LAG, OF, by=EACH), legend=LEGEND),),
            unit="s",
            limits=Limits(warn=0.01, bad=0.05),
            runbook="latency",
        ),
        Panel(
            title="Tasks",
            about="Not done. It follows the open streams; rising without them is a leak.",
            queries=(Query(expr=total("ollamesh_event_loop_tasks", OF, by=EACH), legend=LEGEND),),
            unit="none",
        ),
    ),
)

CALLS = Section(
    title="Calls",
    panels=(
        Panel(
            title="Calls, by service",
            about="Ended, whether well or not.",
            queries=(Query(expr=rate("ollamesh_rpc_handled_total", OF, by=["job"]), legend="{{job}}"),),
            unit="reqps",
            kind="stacked",
        ),
        Panel(
            title="Calls under way",
            about="Streams too.",
            queries=(Query(expr=total("ollamesh_rpc_in_flight", OF, by=EACH), legend=LEGEND),),
            unit="none",
        ),
        Panel(
            title="Calls that failed, by service and code",
            about="UNAVAILABLE, INTERNAL, UNKNOWN and DATA_LOSS are ours; the others mostly the callers'.",
            queries=(
                Query(
                    expr=rate("ollamesh_rpc_handled_total", f'{OF}, code!="OK"', by=["job", "code"]),
                    legend="{{job}}: {{code}}",
                ),
            ),
            unit="reqps",
            kind="stacked",
            runbook="errors",
            none="no call failed",
        ),
        Panel(
            title="Busiest methods",
            about="Calls a second.",
            queries=(
                Query(
                    expr=f"topk(10, {rate('ollamesh_rpc_handled_total', OF, by=['method'])})",
                    legend="{{method}}",
                ),
            ),
            unit="reqps",
            width=12,
        ),
        Panel(
            title="Slowest methods, p95",
            about="From first byte to status; streams last as long as their answers.",
            queries=(
                Query(
                    expr=f"topk(10, {quantile(0.95, 'ollamesh_rpc_duration_seconds', OF, by=['method'])})",
                    legend="{{method}}",
                    exemplars=True,
                ),
            ),
            unit="s",
            width=12,
            runbook="latency",
        ),
    ),
)

TRUST = Section(
    title="Certificates and keys",
    panels=(
        Panel(
            title="Certificates of services: time left",
            about="Renewed at half of their life by what issues them; services read them anew by themselves.",
            queries=(
                Query(
                    expr=f"min by (job, name) (ollamesh_certificate_expiry_seconds{{{OF}}})",
                    legend="{{job}} {{name}}",
                ),
                Query(
                    expr=f"min by (envoy_tls_certificate) (envoy_cluster_{EXPIRES}) - time()",
                    legend="edge {{envoy_tls_certificate}}",
                ),
            ),
            unit="s",
            limits=Limits(warn=6 * HOUR_S, bad=HOUR_S, falling=True),
            runbook="certificates",
            none="plain text inside (OLLAMESH_INSECURE_INSIDE)",
        ),
        Panel(
            title="Certificate that callers see: time left",
            about="Of the edge's TLS listeners. Whoever issues it has it renewed in good time; Envoy takes up a new file by itself.",
            queries=(
                Query(
                    expr=f"min by (envoy_listener_address) (envoy_listener_{EXPIRES}) - time()",
                    legend="{{envoy_listener_address}}",
                ),
            ),
            unit="s",
            limits=Limits(warn=14 * DAY_S, bad=2 * DAY_S, falling=True),
            runbook="certificates",
            none="no TLS at the edge",
        ),
        Panel(
            title="Age of keys and revocations",
            about="When each service last heard of signing keys and of what is revoked.",
            queries=(
                Query(
                    expr=f"time() - min by (job) (ollamesh_jwks_refresh_timestamp_seconds{{{OF}}})",
                    legend="{{job}}: keys",
                ),
                Query(
                    expr=f"time() - min by (job) (ollamesh_revocations_timestamp_seconds{{{OF}}})",
                    legend="{{job}}: revocations",
                ),
            ),
            unit="s",
            runbook="auth-down",
        ),
        Panel(
            title="Age of the signing key",
            about="Of the key that signs tokens now, and when it is to be replaced.",
            queries=(
                Query(expr="max(ollamesh_auth_signing_key_age_seconds)", legend="age"),
                Query(expr="max(ollamesh_auth_signing_key_rotation_seconds)", legend="limit"),
            ),
            unit="s",
            width=12,
            runbook="auth-down",
        ),
        Panel(
            title="Tokens and keys",
            about="Signed, refused, and API keys that were checked.",
            queries=(
                Query(
                    expr=rate("ollamesh_auth_tokens_issued_total", by=["grant"]), legend="signed: {{grant}}"
                ),
                Query(
                    expr=rate("ollamesh_auth_tokens_refused_total", by=["reason"]),
                    legend="refused: {{reason}}",
                ),
                Query(
                    expr=rate("ollamesh_auth_api_key_checks_total", by=["outcome"]),
                    legend="API key: {{outcome}}",
                ),
            ),
            unit="reqps",
            width=12,
            runbook="auth-down",
        ),
    ),
)

TELLING = Section(
    title="Logs, spans and the edge's process",
    panels=(
        Panel(
            title="Log lines, by level",
            about="Errors are worth reading, each of them.",
            queries=(Query(expr=rate("ollamesh_log_lines_total", OF, by=["level"]), legend="{{level}}"),),
            unit="none",
            width=12,
            kind="stacked",
            runbook="errors",
        ),
        Panel(
            title="Redacted and dropped",
            about="Lines in which something that looks like a secret was blacked out: a bug of whoever wrote it.",
            queries=(
                Query(
                    expr=increase("ollamesh_log_redactions_total", OF, by=["job"]), legend="{{job}}: redacted"
                ),
                Query(
                    expr=increase("ollamesh_log_lines_dropped_total", OF, by=["job", "reason"]),
                    legend="{{job}}: dropped, {{reason}}",
                ),
            ),
            unit="none",
            width=12,
            kind="bars",
            none="none",
        ),
        Panel(
            title="Spans",
            about="Of traces. dropped: more than could be sent; failed: the collector did not take them. Requests never wait for either.",
            queries=(Query(expr=rate("ollamesh_spans_total", OF, by=["outcome"]), legend="{{outcome}}"),),
            unit="ops",
            kind="stacked",
            width=12,
            runbook="telemetry-lost",
            none="nothing is traced (OLLAMESH_OTLP_TARGET)",
        ),
        Panel(
            title="Envoy's memory",
            about="Allocated, of the heap that it holds; at its limit it refuses new requests.",
            queries=(
                Query(expr="sum(envoy_server_memory_allocated)", legend="allocated"),
                Query(expr="sum(envoy_server_memory_heap_size)", legend="heap"),
            ),
            unit="bytes",
            width=12,
            runbook="memory",
        ),
    ),
)

BOARD = Board(
    name="services",
    title="services",
    about="The processes of the mesh: CPU, memory, event loops, calls, certificates, logs.",
    choices=(
        Choice(name="service", label="Service", metric="ollamesh_rpc_in_flight", of="job"),
        Choice(name="instance", label="Target", metric="ollamesh_rpc_in_flight", of="instance"),
    ),
    sections=(PROCESSES, LOOPS, CALLS, TRUST, TELLING),
)
