"""What looks teach about an instance, whenever they come."""

from dataclasses import replace
from math import inf

import pytest

from services.inference.core.decisions import Cause
from services.inference.core.hosts import Capacity, Fit, Host, Phase, Running, Swap
from services.inference.core.jobs import Job, Priority

MODELS = {"a": 6, "b": 6, "c": 1}


def seen(*loaded: str, at_s: float) -> Capacity:
    return Capacity(
        instance="gpu",
        slots=2,
        models=MODELS,
        loaded={model: MODELS[model] for model in loaded},
        asked_at_s=at_s,
    )


def job(model: str) -> Job:
    return Job(
        ticket=1, tenant="t", model=model, priority=Priority.DEFAULT, arrived_at_s=0.0, expires_at_s=inf
    )


def loading(host: Host, model: str, *, sure: bool = False) -> None:
    host.swap = Swap(model=model, cause=Cause.DEMAND, victims=(), sure=sure, phase=Phase.LOADING)


@pytest.mark.parametrize("during", [True, False])
def test_a_model_that_went_for_another_did_not_fit_beside_it(*, during: bool) -> None:
    """Whether the look that misses it comes during the load or after it."""
    host = Host("gpu")
    host.observe(seen("a", at_s=0.0), 0.0)
    assert host.fit(["a", "b"]) is Fit.UNKNOWN
    loading(host, "b")
    if during:
        host.observe(seen("b", at_s=1.0), 1.0)
    host.loaded("b", 2.0)
    host.observe(seen("b", at_s=3.0), 3.0)
    assert host.fit(["a", "b"]) is Fit.NO
    assert host.fit(["b", "c"]) is Fit.UNKNOWN
    assert host.serves("b")
    assert not host.serves("a")


def test_one_that_expires_while_another_that_fits_is_loaded_teaches_nothing() -> None:
    host = Host("gpu")
    host.observe(seen("a", at_s=0.0), 0.0)
    loading(host, "c", sure=True)
    host.observe(seen(at_s=1.0), 1.0)
    host.loaded("c", 2.0)
    assert host.fit(["a", "c"]) is Fit.UNKNOWN


def test_a_look_that_began_before_an_unload_says_nothing_about_it() -> None:
    host = Host("gpu")
    host.observe(seen("a", at_s=0.0), 0.0)
    host.unloaded("a", 2.0)
    host.observe(seen("a", at_s=1.0), 2.1)
    assert not host.serves("a")
    host.observe(seen("a", at_s=3.0), 3.1)
    assert host.serves("a"), "it did not work"


def three_and_another(*, used_at_s: float = 90.0) -> Host:
    """An instance on which a fourth model is being loaded that its memory has room for."""
    host = Host("gpu")
    host.observe(roomy("a", "b", "c", at_s=0.0), 0.0)
    for resident in host.residents.values():
        resident.used_s = used_at_s
    loading(host, "d", sure=True)
    return host


def roomy(*loaded: str, at_s: float) -> Capacity:
    needs = dict.fromkeys("abcdefgh", 1)
    return Capacity(
        instance="gpu",
        slots=2,
        models=needs,
        loaded=dict.fromkeys(loaded, 1),
        vram_bytes=100,
        asked_at_s=at_s,
    )


@pytest.mark.parametrize("during", [True, False])
def test_a_model_that_went_although_there_was_room_shows_how_many_are_kept(*, during: bool) -> None:
    """Ollama keeps three of them on a GPU if it is not told otherwise, and says nothing."""
    host = three_and_another()
    if during:
        host.observe(roomy("b", "c", "d", at_s=100.0), 100.1)
    host.loaded("d", 101.0)
    host.observe(roomy("b", "c", "d", at_s=102.0), 102.1)
    assert host.fit(["a", "b", "c", "d"]) is Fit.NO
    assert host.fit(["e", "f", "g", "h", "a"]) is Fit.NO
    assert host.fit(["e", "f", "g"]) is Fit.YES
    host.observe(roomy("b", "c", "d", at_s=701.0), 701.0 + 1.2)
    assert host.fit(["a", "b", "c", "d"]) is Fit.YES, "it may have been a coincidence"


def test_one_that_went_while_jobs_were_sent_to_it_shows_it_too() -> None:
    host = three_and_another()
    host.running[1] = Running(job("a"), 1.0, 0, 0.0, 200.0)
    host.loaded("d", 101.0)
    host.observe(roomy("b", "c", "d", at_s=102.0), 102.1)
    assert host.fit(["a", "b", "c", "d"]) is Fit.NO
    assert host.serves("a"), "the instance loads it for them"


def test_models_that_go_for_reasons_of_their_own_show_nothing() -> None:
    kept = three_and_another(used_at_s=0.0)
    kept.loaded("d", 101.0)
    kept.observe(roomy("b", "c", "d", at_s=102.0), 102.1)
    assert kept.fit(["a", "b", "c", "d"]) is Fit.YES, "its keep-alive may have run out"
    restarted = three_and_another()
    restarted.loaded("d", 101.0)
    restarted.observe(roomy(at_s=102.0), 102.1)
    assert restarted.fit(["a", "b", "c", "d"]) is Fit.YES, "nothing is left"
    later = three_and_another()
    later.loaded("d", 101.0)
    later.observe(roomy("a", "b", "c", "d", at_s=102.0), 102.1)
    later.observe(roomy("b", "c", "d", at_s=104.0), 104.1)
    assert later.fit(["a", "b", "c", "d"]) is Fit.YES, "all were there after the load"


def test_few_large_models_may_fit_where_many_small_ones_did_not() -> None:
    host = Host("gpu")
    needs = {"a": 1, "b": 1, "c": 1, "d": 5}
    seen_with = Capacity(instance="gpu", slots=2, models=needs, loaded={"a": 1, "b": 1}, asked_at_s=0.0)
    host.observe(seen_with, 0.0)
    loading(host, "c")
    host.loaded("c", 2.0)
    host.observe(replace(seen_with, loaded={"b": 1, "c": 1}, asked_at_s=3.0), 3.0)
    assert host.fit(["a", "b", "c"]) is Fit.NO
    assert host.fit(["a", "d"]) is Fit.UNKNOWN
