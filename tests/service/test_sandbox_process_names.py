"""A process may call itself anything, and that is nothing to the init, which reads of it in /proc."""

from services.sandbox.core.limits import Limits
from tests.service.ns_jails import begin, ended, finished
from tests.service.sandbox_engine import engine

NO_TEXT = "import ctypes, time\nctypes.CDLL(None).prctl(15, b') \\xff\\n 0', 0, 0, 0)\nx = 1\ntime.sleep(0.1)\nprint(x)"


async def test_a_name_that_is_no_text_costs_a_session_nothing() -> None:
    async with engine() as jails:
        session = await jails.open(Limits())
        output = begin(session, NO_TEXT)
        assert (await finished(session)).status == 0
        assert output.stdout == "1\n"
        output = begin(session, "print(x)")
        assert (await finished(session)).status == 0
        assert output.stdout == "1\n"
        session.kill()


async def test_nor_a_program_whose_processor_time_is_measured() -> None:
    async with engine() as jails:
        jail = await jails.take(Limits(cpu_s=5.0))
        output = begin(jail, NO_TEXT)
        assert (await ended(jail)).status == 0
        assert output.stdout == "1\n"
