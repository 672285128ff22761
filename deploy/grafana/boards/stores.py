"""Stores: PostgreSQL and Redis as they and as their users see them, the audit trail, backups."""

from deploy.grafana.board import Board, Choice, Section
from deploy.grafana.panels import BAD, GOOD, Limits, Panel, Query, quantiles
from deploy.grafana.promql import increase, quantile, rate, total

OURS = 'datname="ollamesh"'
OF_SERVICE = 'job=~"$service"'
USED = f'{OF_SERVICE}, state="used"'
STATEMENT = "ollamesh_postgres_statement_seconds"
NO_EXPORTER = "no exporter is scraped (make up OBSERVE=1 starts one)"
INTACT = {"0": ("BROKEN", BAD), "1": ("intact", GOOD)}
REACHED = {"0": ("not reached", BAD), "1": ("reached", GOOD)}
DAY_S = 86_400

GLANCE = Section(
    title="At a glance",
    panels=(
        Panel(
            title="PostgreSQL",
            about="Whether its exporter reaches it.",
            queries=(Query(expr="min(pg_up)"),),
            unit="none",
            kind="stat",
            width=4,
            height=5,
            words=REACHED,
            limits=Limits(warn=1, bad=1, falling=True),
            runbook="postgres-slow",
            none=NO_EXPORTER,
        ),
        Panel(
            title="Redis",
            about="Whether its exporter reaches it. Without Redis everything goes on, slower and counted by replica.",
            queries=(Query(expr="min(redis_up)"),),
            unit="none",
            kind="stat",
            width=4,
            height=5,
            words=REACHED,
            limits=Limits(warn=1, bad=1, falling=True),
            runbook="redis-down",
            none=NO_EXPORTER,
        ),
        Panel(
            title="Audit chain",
            about="Broken: somebody or something changed what was written. Do not mend it; read the runbook.",
            queries=(Query(expr="min(ollamesh_audit_chain_intact)"),),
            unit="none",
            kind="stat",
            width=4,
            height=5,
            words=INTACT,
            limits=Limits(warn=1, bad=1, falling=True),
            runbook="audit",
        ),
        Panel(
            title="Chain last looked at",
            about="How long ago the chain's end was found intact.",
            queries=(Query(expr="time() - min(ollamesh_audit_checked_timestamp_seconds)"),),
            unit="s",
            kind="stat",
            width=4,
            height=5,
            limits=Limits(warn=60, bad=300),
            runbook="audit",
        ),
        Panel(
            title="Age of the last backup",
            about="By kind: base backups, and the write-ahead log that is archived all the time.",
            queries=(
                Query(
                    expr="time() - max by (kind) (ollamesh_backup_last_success_timestamp_seconds)",
                    legend="{{kind}}",
                ),
            ),
            unit="s",
            kind="stat",
            width=8,
            height=5,
            limits=Limits(warn=1.1 * DAY_S, bad=2 * DAY_S),
            runbook="backup",
            none="no backup has been made",
        ),
    ),
)

POSTGRES = Section(
    title="PostgreSQL, as services see it",
    panels=(
        Panel(
            title="Connections in use",
            about="Of each service's pools, of what they may have. At 100 % callers wait, and after 0.8 s are refused.",
            queries=(
                Query(
                    expr=f"{total('ollamesh_postgres_pool_connections', USED, by=['job', 'pool'])} / "
                    f"{total('ollamesh_postgres_pool_connections_max', OF_SERVICE, by=['job', 'pool'])}",
                    legend="{{job}} {{pool}}",
                ),
            ),
            unit="percentunit",
            top=1,
            limits=Limits(warn=0.8, bad=0.95),
            runbook="postgres-slow",
        ),
        Panel(
            title="Waiting for a connection",
            about="How long, at p95, and how many now.",
            queries=(
                Query(
                    expr=quantile(0.95, "ollamesh_postgres_pool_acquire_seconds", OF_SERVICE, by=["job"]),
                    legend="{{job}}: p95",
                ),
            ),
            unit="s",
            limits=Limits(warn=0.05, bad=0.5),
            runbook="postgres-slow",
        ),
        Panel(
            title="Refused and failed",
            about="busy: no connection came free. away: PostgreSQL is not reached.",
            queries=(
                Query(
                    expr=rate("ollamesh_postgres_refused_total", OF_SERVICE, by=["job", "cause"]),
                    legend="{{job}}: {{cause}}",
                ),
                Query(
                    expr=rate("ollamesh_postgres_statement_errors_total", OF_SERVICE, by=["job"]),
                    legend="{{job}}: statements that failed",
                ),
            ),
            unit="reqps",
            runbook="postgres-slow",
            none="nothing failed",
        ),
        Panel(
            title="Statements, p95 of the slowest ten",
            about="Time of each kind of statement, by OpenTelemetry's summary: verb and table.",
            queries=(
                Query(
                    expr=f"topk(10, {quantile(0.95, STATEMENT, OF_SERVICE, by=['job', 'statement'])})",
                    legend="{{job}}: {{statement}}",
                ),
            ),
            unit="s",
            width=12,
            limits=Limits(warn=0.1, bad=0.5),
            runbook="postgres-slow",
        ),
        Panel(
            title="Slow statements",
            about="Longer than half a second; each is in the log as slow_statement.",
            queries=(
                Query(
                    expr=increase("ollamesh_postgres_slow_statements_total", OF_SERVICE, by=["statement"]),
                    legend="{{statement}}",
                ),
            ),
            unit="none",
            kind="bars",
            width=12,
            runbook="postgres-slow",
            none="none was slow",
        ),
    ),
)

SERVER = Section(
    title="PostgreSQL itself",
    panels=(
        Panel(
            title="Connections",
            about="Of all databases, and how many it takes.",
            queries=(
                Query(expr="sum by (state) (pg_stat_activity_count)", legend="{{state}}"),
                Query(expr="max(pg_settings_max_connections)", legend="limit"),
            ),
            unit="none",
            runbook="postgres-slow",
            none=NO_EXPORTER,
        ),
        Panel(
            title="Transactions",
            about="Committed and rolled back.",
            queries=(
                Query(expr=rate("pg_stat_database_xact_commit", OURS), legend="committed"),
                Query(expr=rate("pg_stat_database_xact_rollback", OURS), legend="rolled back"),
            ),
            unit="ops",
            none=NO_EXPORTER,
        ),
        Panel(
            title="Blocks found in memory",
            about="Below 95 % for long: it wants more shared_buffers, or a query reads what has no index.",
            queries=(
                Query(
                    expr=f"{rate('pg_stat_database_blks_hit', OURS)} / ({rate('pg_stat_database_blks_hit', OURS)} + "
                    f"{rate('pg_stat_database_blks_read', OURS)})",
                    legend="found",
                ),
            ),
            unit="percentunit",
            top=1,
            limits=Limits(warn=0.95, bad=0.8, falling=True),
            runbook="postgres-slow",
            none=NO_EXPORTER,
        ),
        Panel(
            title="Size",
            about="Of our database.",
            queries=(
                Query(expr=f"max by (datname) (pg_database_size_bytes{{{OURS}}})", legend="{{datname}}"),
            ),
            unit="bytes",
            runbook="disk-full",
            none=NO_EXPORTER,
        ),
        Panel(
            title="Deadlocks and conflicts",
            about="Deadlocks are a bug of ours.",
            queries=(
                Query(expr=increase("pg_stat_database_deadlocks", OURS), legend="deadlocks"),
                Query(expr=increase("pg_stat_database_conflicts", OURS), legend="conflicts"),
            ),
            unit="none",
            kind="bars",
            none=NO_EXPORTER,
        ),
        Panel(
            title="Longest transaction",
            about="One that stays open for minutes keeps old rows from being cleaned up, and may hold locks.",
            queries=(Query(expr="max by (state) (pg_stat_activity_max_tx_duration)", legend="{{state}}"),),
            unit="s",
            limits=Limits(warn=60, bad=600),
            runbook="postgres-slow",
            none=NO_EXPORTER,
        ),
        Panel(
            title="Write-ahead log archived",
            about="How long ago a segment was archived, and attempts that failed; where archiving is on.",
            queries=(
                Query(expr="max(pg_stat_archiver_last_archive_age)", legend="last one, seconds ago"),
                Query(expr=increase("pg_stat_archiver_failed_count"), legend="failed"),
            ),
            unit="none",
            width=24,
            height=6,
            runbook="backup",
            none=NO_EXPORTER,
        ),
    ),
)

REDIS = Section(
    title="Redis",
    panels=(
        Panel(
            title="Time of a question",
            about="As services see it.",
            queries=quantiles("ollamesh_redis_seconds", OF_SERVICE),
            unit="s",
            limits=Limits(warn=0.01, bad=0.1),
            runbook="redis-down",
        ),
        Panel(
            title="Questions that came to nothing",
            about="By cause. None are asked while it is away.",
            queries=(
                Query(
                    expr=increase("ollamesh_redis_failures_total", OF_SERVICE, by=["job", "cause"]),
                    legend="{{job}}: {{cause}}",
                ),
            ),
            unit="none",
            kind="bars",
            runbook="redis-down",
            none="none failed",
        ),
        Panel(
            title="Connections of services",
            about="Of their pools, used and idle.",
            queries=(
                Query(
                    expr=total("ollamesh_redis_pool_connections", OF_SERVICE, by=["job", "state"]),
                    legend="{{job}}: {{state}}",
                ),
            ),
            unit="none",
            runbook="redis-down",
        ),
        Panel(
            title="Memory",
            about="Used, and the limit above which it forgets what was not used for long: the cache shrinks, nothing breaks.",
            queries=(
                Query(expr=total("redis_memory_used_bytes"), legend="used"),
                Query(expr=total("redis_memory_max_bytes"), legend="limit"),
            ),
            unit="bytes",
            runbook="redis-down",
            none=NO_EXPORTER,
        ),
        Panel(
            title="Commands",
            about="A second.",
            queries=(Query(expr=rate("redis_commands_processed_total"), legend="commands"),),
            unit="ops",
            none=NO_EXPORTER,
        ),
        Panel(
            title="Forgotten",
            about="Keys that were evicted for want of memory, and keys whose time was over.",
            queries=(
                Query(expr=increase("redis_evicted_keys_total"), legend="evicted"),
                Query(expr=increase("redis_expired_keys_total"), legend="expired"),
            ),
            unit="none",
            kind="bars",
            none=NO_EXPORTER,
        ),
    ),
)

AUDIT = Section(
    title="Audit trail, disks, backups",
    panels=(
        Panel(
            title="Events, by where they came to",
            about="chain: written. spool: on disk until auth can be reached. nowhere: lost, which must not happen.",
            queries=(Query(expr=rate("ollamesh_audit_events_total", by=["to"]), legend="{{to}}"),),
            unit="ops",
            kind="stacked",
            runbook="audit",
        ),
        Panel(
            title="Events that wait",
            about="In memory, to be sent to auth.",
            queries=(Query(expr=total("ollamesh_audit_waiting", OF_SERVICE, by=["job"]), legend="{{job}}"),),
            unit="none",
            limits=Limits(warn=1_000, bad=5_000),
            runbook="audit",
        ),
        Panel(
            title="Spool",
            about="Events on disk that auth has not got yet. It has a bound, and events are lost at it.",
            queries=(
                Query(expr=total("ollamesh_audit_spool_bytes", OF_SERVICE, by=["job"]), legend="{{job}}"),
            ),
            unit="bytes",
            runbook="audit",
        ),
        Panel(
            title="Disk in use",
            about="Of the disks that services write to.",
            queries=(
                Query(
                    expr=f"1 - min by (job, name) (ollamesh_disk_free_bytes{{{OF_SERVICE}}} / ollamesh_disk_size_bytes)",
                    legend="{{job}} {{name}}",
                ),
            ),
            unit="percentunit",
            top=1,
            limits=Limits(warn=0.8, bad=0.92),
            runbook="disk-full",
        ),
        Panel(
            title="Backups: how long they took",
            about="By kind.",
            queries=(Query(expr="max by (kind) (ollamesh_backup_duration_seconds)", legend="{{kind}}"),),
            unit="s",
            runbook="backup",
            none="no backup has been made",
        ),
        Panel(
            title="Backups: size",
            about="By kind. One that shrinks by half lacks something.",
            queries=(Query(expr="max by (kind) (ollamesh_backup_size_bytes)", legend="{{kind}}"),),
            unit="bytes",
            runbook="backup",
            none="no backup has been made",
        ),
    ),
)

BOARD = Board(
    name="stores",
    title="stores",
    about="PostgreSQL and Redis as they and as services see them; the audit trail, disks, backups.",
    choices=(Choice(name="service", label="Service", metric="ollamesh_audit_waiting", of="job"),),
    sections=(GLANCE, POSTGRES, SERVER, REDIS, AUDIT),
)
