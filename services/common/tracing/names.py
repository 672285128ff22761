"""Every name that a span of ours can have or hold: one table, which docs/tracing.md shows and a test holds to the code.

Those of OpenTelemetry's semantic conventions are used as they are; ours begin with `ollamesh.`. Values are of closed sets,
or names that the fleet knows; what people wrote is in `gen_ai.*.messages` and `gen_ai.tool.call.*` alone, and only if the
operator asks for it.
"""

CODE = "rpc.grpc.status_code"
ERROR = "error.type"
CANCELLED = "CANCELLED"
