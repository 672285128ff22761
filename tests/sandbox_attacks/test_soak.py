"""The soak in short (`make soak-sandbox` is the long one): executions of every kind leave nothing behind."""

import os
from pathlib import Path

import pytest

from tests.sandbox_attacks.soak import USERS, soak

COUNT = 200
# A jail that is forgotten keeps two processes and some descriptors, which is seen exactly. Memory is judged loosely here:
# interpreters grow into their work, and so short a run does not show where that ends.
GROWTH_BYTES_MAX = 24 << 20


@pytest.mark.timeout(300)
@pytest.mark.parametrize("uid", [pytest.param(uid, id=name) for name, uid in USERS.items()])
async def test_executions_leave_nothing_behind(uid: int | None, tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o777)  # noqa: PTH101 -- a moment.
    found = await soak(uid=uid, count=COUNT, seed=1, temporary=tmp_path)
    assert found.record.wrong() == {}
    assert len({kind for kind, _ in found.record.ended}) >= 12
    assert found.end == found.base
    assert found.left_cgroups == []
    assert found.left_processes == []
    assert found.service_bytes[-1] - found.service_bytes[0] < GROWTH_BYTES_MAX
    assert found.zygote_bytes[-1] - found.zygote_bytes[0] < GROWTH_BYTES_MAX
