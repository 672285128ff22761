"""When an owned Ollama server is started again, and when it is left alone."""

from services.common.restarts import RestartPolicy
from services.inference.core.restarts import OwnedPolicy, Phase, Restarts

POLICY = OwnedPolicy(
    restarts=RestartPolicy(first_delay_s=1.0, longest_delay_s=3.0, restarts_max=3, window_s=100.0),
    cool_down_s=600.0,
)


def running() -> Restarts:
    restarts = Restarts(POLICY)
    restarts.started()
    return restarts


def test_the_pause_doubles_up_to_a_bound_and_then_it_is_given_up() -> None:
    restarts, pauses = running(), []
    for now_s in range(4):
        pauses.append(restarts.ended("ended with status 1", now_s))
        assert restarts.reason.startswith("its process ended with status 1")
        if restarts.phase is not Phase.GIVEN_UP:
            restarts.started()
    assert pauses == [1.0, 2.0, 3.0, 600.0]
    assert restarts.phase is Phase.GIVEN_UP
    assert restarts.reason == "its process ended with status 1, too often; it is given up for 600 s"


def test_after_the_cool_down_it_has_its_whole_budget_again() -> None:
    restarts = running()
    for now_s in range(4):
        restarts.ended("died", now_s)
        restarts.started()
    assert (restarts.phase, restarts.reason) == (Phase.RUNNING, "")
    assert restarts.ended("died", 5.0) == 1.0


def test_deaths_that_are_long_past_do_not_count() -> None:
    restarts = running()
    pauses = [restarts.ended("died", now_s) for now_s in (0.0, 100.0, 200.0, 300.0, 400.0)]
    assert pauses == [1.0] * 5


def test_a_restart_that_is_asked_for_counts_and_says_why() -> None:
    restarts = running()
    assert restarts.ask("it fell silent", 0.0)
    assert restarts.ask("it fell silent", 0.1), "it is under way"
    assert restarts.ended("was killed by signal 9", 1.0) == 1.0
    assert restarts.reason == "it was stopped because it fell silent; it is about to be started again"
    assert restarts.ask("it fell silent", 1.5), "it is about to be started"
    assert restarts.phase is Phase.WAITING
    restarts.started()
    assert restarts.ended("ended with status 0", 2.0) == 2.0
    assert "ended with status 0" in restarts.reason, "the reason was that of one end"


def test_no_restart_is_promised_beyond_the_budget() -> None:
    restarts = running()
    for now_s in range(3):
        restarts.ended("died", now_s)
        restarts.started()
    assert not restarts.ask("it fell silent", 3.0)
    assert restarts.phase is Phase.RUNNING, "better a wedged one than none: it may come round"
    assert restarts.ask("it fell silent", 102.0), "two of three are long past"


def test_what_is_given_up_is_not_started_because_somebody_asks() -> None:
    restarts = running()
    for now_s in range(4):
        restarts.ended("died", now_s)
    assert not restarts.ask("it fell silent", 4.0)
