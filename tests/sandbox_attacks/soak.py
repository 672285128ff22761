"""`make soak-sandbox`: thousands of executions of every kind, after which nothing may be left, and nothing have grown.

What a service holds is read from the kernel before and after: processes, descriptors, mounts, cgroups, files. Memory of
the service and of its zygotes is read meanwhile, and a slope fitted to what was seen after a warm-up.
"""

import asyncio
import os
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.support.report import Figure, report
from tests.bench.support.watched import slope
from tests.sandbox_attacks.remains import (
    Remains,
    back_at,
    cgroups_of,
    remains,
    rss_bytes,
    settled,
    zygote_bytes,
)
from tests.sandbox_attacks.workload import Record, drive
from tests.service.sandbox_app import ORDINARY_UID, TIMEOUT_S, built_root, descendants, serving

COUNT = int(os.environ.get("COUNT", "5000"))
SEED = int(os.environ.get("SEED", "1"))
AT_ONCE = 8
LEG_COUNT = 100  # Memory is looked at after so many.
WARM_UP_SHARE = 0.2
USERS = {"as-root": None, "as-user": ORDINARY_UID} if os.geteuid() == 0 else {"as-user": None}
SLOPE_GOAL_BYTES = 1024.0  # Per execution.


@dataclass(slots=True, kw_only=True)
class Soaked:
    """What was seen."""

    base: Remains
    end: Remains
    record: Record = field(default_factory=Record)
    took_s: float = 0.0
    service_bytes: list[int] = field(default_factory=list)
    zygote_bytes: list[int] = field(default_factory=list)
    left_processes: list[int] = field(default_factory=list)  # Once the service has ended.
    left_cgroups: list[Path] = field(default_factory=list)


async def soak(*, uid: int | None, count: int, seed: int, temporary: Path) -> Soaked:
    with serving(built_root(), uid=uid, settings={"TMPDIR": str(temporary)}) as service:
        pid = service.process.pid

        def look() -> Remains:
            return remains(service, temporary)

        async with service.ready() as client:
            await drive(
                client, count=60, at_once=AT_ONCE, seed=seed
            )  # What is opened once and kept is no leak.
            base = await settled(look)
            found = Soaked(base=base, end=base)
            began_s = time.monotonic()
            for number in range(0, count, LEG_COUNT):
                leg = await drive(
                    client, count=min(LEG_COUNT, count - number), at_once=AT_ONCE, seed=seed + number
                )
                found.record.ended += leg.ended
                found.service_bytes.append(rss_bytes(pid))
                found.zygote_bytes.append(zygote_bytes(service))
            found.took_s = time.monotonic() - began_s
            found.end = await back_at(base, look)
        below = descendants(pid)
        service.process.terminate()
        await asyncio.to_thread(service.process.wait, TIMEOUT_S)
    found.left_processes = [one for one in below if Path("/proc", str(one)).exists()]  # noqa: ASYNC240 -- in memory.
    found.left_cgroups = cgroups_of(pid)
    return found


def figures(name: str, found: Soaked) -> list[Figure]:
    wrong_count = sum(found.record.wrong().values())
    return [
        Figure(name=f"{name}: executions", value=sum(found.record.ended.values()), unit=""),
        Figure(name=f"{name}: executions a second", value=sum(found.record.ended.values()) / found.took_s, unit="/s"),
        Figure(name=f"{name}: ended otherwise than they had to", value=wrong_count, unit="", goal=0),
        *(
            Figure(
                name=f"{name}: {what} left over",
                value=max(0, getattr(found.end, what) - getattr(found.base, what)),
                unit=f"of {getattr(found.base, what)}",
                goal=0,
            )
            for what in Remains.__dataclass_fields__
        ),
        Figure(name=f"{name}: processes after its end", value=len(found.left_processes), unit="", goal=0),
        Figure(name=f"{name}: cgroups after its end", value=len(found.left_cgroups), unit="", goal=0),
        _growth(f"{name}: service grows", found.service_bytes),
        _growth(f"{name}: zygote grows", found.zygote_bytes),
        Figure(name=f"{name}: service's RSS at the end", value=found.service_bytes[-1] / 1e6, unit="MB"),
    ]  # fmt: skip


def _growth(name: str, sizes_bytes: list[int]) -> Figure:
    """Per execution, after a warm-up."""
    settled_from = int(WARM_UP_SHARE * len(sizes_bytes))
    points = [(float(LEG_COUNT * number), size) for number, size in enumerate(sizes_bytes)][settled_from:]
    return Figure(name=name, value=slope(points).per_s, unit="B/execution", goal=SLOPE_GOAL_BYTES)


async def main() -> None:
    found: list[Figure] = []
    remarks: list[str] = []
    for name, uid in USERS.items():
        with tempfile.TemporaryDirectory(prefix="sandbox-soak-") as folder:
            os.chmod(folder, 0o777)  # noqa: PTH101 -- a moment.
            soaked = await soak(uid=uid, count=COUNT, seed=SEED, temporary=Path(folder))
        found += figures(name, soaked)
        remarks += [
            f"{name}: {kind} ended as {how}: {count}"
            for (kind, how), count in sorted(soaked.record.ended.items())
        ]
    report("soak-sandbox", rounds=1, figures=found, remarks=remarks)


if __name__ == "__main__":
    asyncio.run(main())
