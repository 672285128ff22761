"""What looks teach about an instance, whenever they come."""

import pytest

from services.inference.core.decisions import Cause
from services.inference.core.hosts import Capacity, Fit, Host, Phase, Swap

MODELS = {"a": 6, "b": 6, "c": 1}


def seen(*loaded: str, at_s: float) -> Capacity:
    return Capacity(
        instance="gpu",
        slots=2,
        models=MODELS,
        loaded={model: MODELS[model] for model in loaded},
        asked_at_s=at_s,
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
