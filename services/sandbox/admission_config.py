"""The knobs of what is bounded for all executions together, and for how much of it one user may have."""

from services.common.config import Environment
from services.sandbox import machine
from services.sandbox.core.admission import Bounds
from services.sandbox.core.keeping import Keeping
from services.sandbox.core.kept_results import ResultBounds
from services.sandbox.core.limits import MEMORY_BYTES_MIN, MIB
from services.sandbox.limits_config import PREFIX, RoleCaps

WARM_JAIL_BYTES = 8 * MIB  # What one that waits for its program holds, and not its limit.
SESSION_SHARE = 0.75  # Of the memory, at most.


def read_bounds(env: Environment, caps: RoleCaps, *, warm_bytes: int) -> Bounds:
    """`warm_bytes`: what the warm jails of all engines and profiles hold."""
    running_max = env.integer(f"{PREFIX}_RUNNING_MAX", 8, low=1, high=1024)
    waiting_max = env.integer(f"{PREFIX}_WAITING_MAX", 64, high=4096)
    memory_bytes = _memory_bytes(env) - warm_bytes
    if memory_bytes < MEMORY_BYTES_MIN:
        env.reject(f"{PREFIX}_MEMORY_BUDGET_MIB", "is too little for one program besides the warm jails")
        memory_bytes = MEMORY_BYTES_MIN
    executions = caps.within(memory_bytes)
    return Bounds(
        memory_bytes=memory_bytes,
        # Sessions stay for long: were all the memory theirs, the largest execution would wait as long, and
        # in the end all others behind it.
        session_memory_bytes=min(
            int(memory_bytes * SESSION_SHARE), memory_bytes - executions.memory_bytes_max
        ),
        running_max=running_max,
        waiting_max=waiting_max,
        user_executions_max=env.integer(
            f"{PREFIX}_USER_EXECUTIONS_MAX", running_max + (waiting_max + 1) // 2, low=1, high=8192
        ),
    )


def read_keeping(env: Environment) -> Keeping:
    return Keeping(
        seconds=env.seconds(f"{PREFIX}_KEPT_S", 300, low=1, high=86_400),
        count_max=env.integer(f"{PREFIX}_KEPT_MAX", 2048, low=4, high=1 << 20),
        bytes_max=env.integer(f"{PREFIX}_KEPT_MIB", 128, low=4, high=1 << 20) * MIB,
    )


def read_result_bounds(env: Environment) -> ResultBounds:
    return ResultBounds(
        bytes_max=env.integer(f"{PREFIX}_RESULTS_MIB", 8, low=1, high=1024) * MIB,
        count_max=env.integer(f"{PREFIX}_RESULTS_MAX", 64, low=1, high=4096),
    )


def _memory_bytes(env: Environment) -> int:
    """What is set, or else half of what there is: the rest is for everything else."""
    return env.integer(f"{PREFIX}_MEMORY_BUDGET_MIB", machine.memory_bytes() // 2 // MIB) * MIB
