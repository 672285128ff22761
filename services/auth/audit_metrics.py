"""Whether the audit chain is whole, and how far it is signed."""

from prometheus_client import CollectorRegistry, Gauge

from services.auth.audit_heads import AuditHeads


def heads_watched(registry: CollectorRegistry, heads: AuditHeads) -> None:
    """Read whenever somebody asks."""
    for name, meaning, value in (
        ("chain_intact", "1 while nothing is wrong that was looked at", lambda: heads.problem is None),
        (
            "checked_timestamp_seconds",
            "When this replica last saw the end of the chain; it stands still once something is wrong",
            lambda: heads.looked_at_s,
        ),
        ("head_timestamp_seconds", "When the last head was signed; 0 before", lambda: heads.head_at_s),
        ("unsigned_events", "Events that no signed head covers yet", lambda: heads.unsigned_count),
    ):
        Gauge(f"ollamesh_audit_{name}", meaning, registry=registry).set_function(value)
