"""Estimates that converge, forget, stay within bounds, and outlive a restart."""

import json
from dataclasses import replace
from math import inf, nan
from random import Random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from services.inference.core.averages import Average, Line
from services.inference.core.estimates import (
    EXPORTED_MAX,
    LOAD_BYTES_PER_S,
    LOAD_S,
    OUTPUT_TOKEN_COUNT,
    PREFILL_TOKEN_S,
    TOKEN_EXTRA_S,
    TOKEN_S,
    VERSION,
    Estimates,
)
from services.inference.core.usage import Usage

MODEL, GPU, OTHER_GPU = "tiny:latest", "gpu-0", "gpu-1"
USAGE = Usage(prompt_token_count=1000, prompt_s=0.5, output_token_count=100, output_s=2.0)


def learn(
    estimates: Estimates,
    usage: Usage = USAGE,
    *,
    instance: str = GPU,
    tenant: str = "a",
    reused_token_count: int = 0,
    batch: float = 1.0,
) -> None:
    estimates.learn_work(
        MODEL, instance, tenant, usage=usage, reused_token_count=reused_token_count, batch=batch
    )


@given(
    st.randoms(use_true_random=False),
    st.floats(min_value=1e-4, max_value=1.0),
    st.floats(min_value=0.0, max_value=0.5),
    st.integers(min_value=2, max_value=8),
)
def test_a_line_is_found_in_noise(random: Random, alone_s: float, extra: float, batch_max: int) -> None:
    """Within 10 % after 30 requests whose times are up to 10 % off, in batches of all sizes."""
    seeded = Random(random.getrandbits(32))
    estimates = Estimates()
    for step in range(30):
        batch = 1 + step % batch_max
        token_s = alone_s * (1 + extra * (batch - 1)) * seeded.uniform(0.9, 1.1)
        learn(estimates, replace(USAGE, output_s=100 * token_s), batch=batch)
    for asked in (1.0, (1 + batch_max) / 2, float(batch_max)):
        wanted_s = alone_s * (1 + extra * (asked - 1))
        assert estimates.token_s(MODEL, GPU, batch=asked) == pytest.approx(wanted_s, rel=0.1)


@given(st.lists(st.tuples(st.floats(1e-9, 1e3), st.floats(0.0, 1e3)), min_size=1, max_size=40))
def test_a_line_is_one_that_can_be(observations: list[tuple[float, float]]) -> None:
    line = Line(0.96)
    for token_s, batch in observations:
        line.learn(token_s, batch=batch)
        assert 0 <= line.extra_s <= line.alone_s * (1 + 1e-9)
        assert line.alone_s > 0
        assert line.alone_s + line.extra_s * line.mean_others == pytest.approx(line.mean_s)


def test_a_batch_that_was_never_seen_is_guessed_to_be_a_little_slower() -> None:
    estimates = Estimates()
    for _ in range(50):
        learn(estimates, batch=1.0)
    assert estimates.token_s(MODEL, GPU, batch=1.0) == pytest.approx(0.02)
    assert 0.02 < estimates.token_s(MODEL, GPU, batch=4.0) < 0.025


def test_times_that_fall_with_the_batch_are_taken_for_a_level() -> None:
    estimates = Estimates()
    for step in range(30):
        learn(estimates, replace(USAGE, output_s=3.0 - step % 2), batch=1.0 + step % 2)
    assert estimates.token_s(MODEL, GPU, batch=8.0) == pytest.approx(0.025, rel=0.05)


@given(st.randoms(use_true_random=False), st.floats(min_value=1e-6, max_value=1e-2))
def test_a_prefill_rate_is_found_in_noise(random: Random, token_s: float) -> None:
    seeded = Random(random.getrandbits(32))
    estimates = Estimates()
    for _ in range(30):
        prompt_s = 1000 * token_s * seeded.uniform(0.9, 1.1)
        learn(estimates, replace(USAGE, prompt_s=prompt_s))
    assert estimates.prefill_s(MODEL, GPU, 500) == pytest.approx(500 * token_s, rel=0.1)


def test_what_was_reused_took_no_time() -> None:
    estimates = Estimates()
    learn(estimates, reused_token_count=500)
    assert estimates.prefill_s(MODEL, GPU, 100) == pytest.approx(0.1)


@pytest.mark.parametrize(("token_count", "reused_token_count"), [(31, 0), (1000, 501), (1000, 2000), (0, 0)])
def test_a_prompt_with_little_that_is_new_teaches_no_rate(token_count: int, reused_token_count: int) -> None:
    estimates = Estimates()
    learn(estimates, replace(USAGE, prompt_token_count=token_count), reused_token_count=reused_token_count)
    assert estimates.prefill_s(MODEL, GPU, 1000) == 1000 * PREFILL_TOKEN_S


def test_a_reuse_that_nobody_knew_of_does_little_harm() -> None:
    """One in ten prompts takes a thousandth of the time that it should."""
    estimates = Estimates()
    for step in range(100):
        learn(estimates, replace(USAGE, prompt_s=0.0005 if step % 10 == 9 else 0.5))
    assert estimates.prefill_s(MODEL, GPU, 1000) == pytest.approx(0.5, rel=0.2)


def test_short_prompts_say_less_than_long_ones() -> None:
    estimates = Estimates()
    for _ in range(20):
        learn(estimates)
        learn(estimates, replace(USAGE, prompt_token_count=40, prompt_s=0.04))
    assert estimates.prefill_s(MODEL, GPU, 1000) == pytest.approx(0.5, rel=0.2)


@pytest.mark.parametrize("factor", [0.05, 20.0])
def test_a_real_change_gets_through(factor: float) -> None:
    estimates = Estimates()
    for _ in range(100):
        learn(estimates)
        estimates.learn_load(MODEL, GPU, 3.0)
    for _ in range(150):
        learn(estimates, replace(USAGE, prompt_s=0.5 * factor, output_s=2.0 * factor))
        estimates.learn_load(MODEL, GPU, 3.0 * factor)
    assert estimates.prefill_s(MODEL, GPU, 1000) == pytest.approx(0.5 * factor, rel=0.1)
    assert estimates.token_s(MODEL, GPU, batch=1) == pytest.approx(0.02 * factor, rel=0.1)
    assert estimates.load_s(MODEL, GPU) == pytest.approx(3.0 * factor, rel=0.1)


def test_one_stall_does_little_harm() -> None:
    estimates = Estimates()
    for _ in range(30):
        learn(estimates)
    learn(estimates, replace(USAGE, output_s=2000.0, prompt_s=500.0))
    assert estimates.token_s(MODEL, GPU, batch=1) < 0.025
    assert estimates.prefill_s(MODEL, GPU, 1000) < 0.7


def test_nothing_known_is_fast() -> None:
    estimates = Estimates()
    assert not estimates.known(MODEL)
    assert estimates.load_s(MODEL, GPU) == LOAD_S
    assert estimates.load_s(MODEL, GPU, vram_bytes=int(LOAD_BYTES_PER_S)) == 1.0
    assert estimates.prefill_s(MODEL, GPU, 10) == 10 * PREFILL_TOKEN_S
    assert estimates.token_s(MODEL, GPU, batch=3) == TOKEN_S + 2 * TOKEN_EXTRA_S
    assert estimates.token_s(MODEL, GPU, batch=0) == TOKEN_S
    assert estimates.output_token_count(MODEL, "a", limit=0) == OUTPUT_TOKEN_COUNT
    assert estimates.output_token_count(MODEL, "a", limit=7) == 7


def test_an_instance_of_its_own_before_the_others_before_the_prior() -> None:
    estimates = Estimates()
    learn(estimates)
    estimates.learn_load(MODEL, GPU, 4.0)
    for instance in (GPU, OTHER_GPU):
        assert estimates.load_s(MODEL, instance, vram_bytes=1) == 4.0
        assert estimates.token_s(MODEL, instance, batch=1) == pytest.approx(0.02)
        assert estimates.prefill_s(MODEL, instance, 10) == pytest.approx(0.005)
    learn(estimates, replace(USAGE, output_s=4.0, prompt_s=1.0), instance=OTHER_GPU)
    estimates.learn_load(MODEL, OTHER_GPU, 8.0)
    for instance, factor in ((GPU, 1.0), ("gpu-2", 1.5), (OTHER_GPU, 2.0)):
        assert estimates.load_s(MODEL, instance) == pytest.approx(4.0 * factor, rel=0.1)
        assert estimates.token_s(MODEL, instance, batch=1) == pytest.approx(0.02 * factor, rel=0.1)
        assert estimates.prefill_s(MODEL, instance, 10) == pytest.approx(0.005 * factor, rel=0.1)
    assert estimates.load_s("huge:latest", GPU) == LOAD_S


def test_how_long_answers_are_is_the_tenants_matter() -> None:
    estimates = Estimates()
    for _ in range(100):
        learn(estimates, replace(USAGE, output_token_count=1000), tenant="talks")
        learn(estimates, replace(USAGE, output_token_count=10), tenant="asks")
    assert estimates.output_token_count(MODEL, "talks", limit=0) == pytest.approx(1000)
    assert estimates.output_token_count(MODEL, "talks", limit=20) == 20
    assert estimates.output_token_count(MODEL, "asks", limit=20) == pytest.approx(10)
    assert 10 < estimates.output_token_count(MODEL, "new", limit=0) < 1000


def test_embeddings_have_no_output() -> None:
    estimates = Estimates()
    learn(estimates, Usage(prompt_token_count=10))
    assert estimates.output_token_count(MODEL, "a", limit=0) == 0
    assert not estimates.known(MODEL)


@pytest.mark.parametrize("seconds", [0.0, -1.0, nan, inf, 1e300])
def test_times_that_cannot_be_teach_nothing(seconds: float) -> None:
    estimates = Estimates()
    learn(estimates, replace(USAGE, prompt_s=seconds, output_s=seconds))
    learn(estimates, replace(USAGE, prompt_token_count=0), batch=nan)
    estimates.learn_load(MODEL, GPU, seconds)
    assert not estimates.known(MODEL)
    assert estimates.token_s(MODEL, GPU, batch=1) == TOKEN_S


def test_no_answer_and_no_prompt_say_nothing_of_answers() -> None:
    estimates = Estimates()
    learn(estimates, Usage())
    assert estimates.output_token_count(MODEL, "a", limit=0) == OUTPUT_TOKEN_COUNT


@pytest.mark.parametrize(
    ("predicted_s", "actual_s", "wanted"),
    [(1.0, 2.0, 2.0), (2.0, 2.0, 1.0), (1.0, 0.0, 0.5), (0.0, 1e9, 4.0), (0.01, 0.09, 1.0), (nan, nan, 1.0)],
)
def test_waits_are_corrected_within_bounds(predicted_s: float, actual_s: float, wanted: float) -> None:
    estimates = Estimates()
    assert estimates.wait_correction(MODEL) == 1.0
    for _ in range(100):
        estimates.learn_wait(MODEL, predicted_s=predicted_s, actual_s=actual_s)
    assert estimates.wait_correction(MODEL) == pytest.approx(wanted, rel=0.01)
    assert estimates.wait_correction("huge:latest") == 1.0


def test_what_was_learned_longest_ago_is_forgotten() -> None:
    estimates = Estimates(rows_max=3)
    for tenant in ("a", "b", "a", "c"):
        learn(estimates, replace(USAGE, output_token_count=10 * ord(tenant)), tenant=tenant)
    assert len(estimates._output_token_count.rows) == 3
    of_model = estimates.output_token_count(MODEL, "never seen", limit=0)
    assert estimates.output_token_count(MODEL, "a", limit=0) == pytest.approx(970)
    assert estimates.output_token_count(MODEL, "b", limit=0) == of_model
    assert estimates.output_token_count(MODEL, "c", limit=0) == pytest.approx(990)


def test_memory_is_bounded() -> None:
    estimates = Estimates(rows_max=10)
    for step in range(100):
        name = f"model-{step}"
        estimates.learn_work(name, GPU, "a", usage=USAGE, reused_token_count=0, batch=1.0)
        estimates.learn_load(name, GPU, 1.0)
        estimates.learn_wait(name, predicted_s=1.0, actual_s=2.0)
    sizes = [len(table.rows) for _, table in estimates._tables()]
    assert sizes == [10] * 4
    assert len(estimates._wait_corrections) == 10
    assert estimates.known("model-99")
    assert not estimates.known("model-0")


happenings = st.lists(
    st.tuples(
        st.sampled_from(("tiny:latest", "huge:latest")),
        st.sampled_from((GPU, OTHER_GPU)),
        st.floats(min_value=1e-3, max_value=1e3),
        st.floats(min_value=1.0, max_value=16.0),
    ),
    max_size=20,
)


@given(happenings)
def test_what_is_exported_comes_back(learned: list[tuple[str, str, float, float]]) -> None:
    before, after = Estimates(), Estimates()
    for model, instance, seconds, batch in learned:
        usage = replace(USAGE, prompt_s=seconds, output_s=seconds, output_token_count=int(seconds))
        before.learn_work(model, instance, "a", usage=usage, reused_token_count=0, batch=batch)
        before.learn_load(model, instance, seconds)
    exported = json.loads(json.dumps(before.export()))
    after.restore(exported)
    assert after.export() == exported
    for model, instance, seconds, batch in learned:
        for each in (before, after):
            each.learn_load(model, instance, seconds)
        assert after.load_s(model, instance) == before.load_s(model, instance)
        assert after.token_s(model, "gpu-9", batch=batch) == before.token_s(model, "gpu-9", batch=batch)
        assert after.prefill_s(model, instance, 9) == before.prefill_s(model, instance, 9)
        assert after.known(model)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda children: st.lists(children, max_size=8) | st.dictionaries(st.text(max_size=3), children),
    max_leaves=20,
)
rows = st.lists(st.lists(st.just(MODEL) | st.integers() | st.floats() | st.none(), max_size=8), max_size=4)


@given(
    st.dictionaries(
        st.sampled_from(("load_s", "prefill_token_s", "token_s", "output_token_count", "else")),
        anything | rows,
    )
)
def test_nonsense_is_left_out(exported: dict[str, object]) -> None:
    """And what is left of it gives numbers with which one can go on."""
    estimates = Estimates()
    estimates.restore({**exported, "version": VERSION})
    for _ in range(2):
        for found in (
            estimates.load_s(MODEL, GPU),
            estimates.prefill_s(MODEL, GPU, 100),
            estimates.token_s(MODEL, GPU, batch=2),
            estimates.output_token_count(MODEL, "a", limit=0),
        ):
            assert 0 <= found < inf
        learn(estimates)
        estimates.learn_load(MODEL, GPU, 1.0)


@pytest.mark.parametrize(
    "numbers",
    [(1.0, -1.0), (1.0, nan), (1.0, inf), (1.0, 1e12), (0.0, 1.0), (-1.0, 1.0), (1e9, 1.0), (nan, 1.0)],
)
def test_numbers_that_were_never_saved_are_left_out(numbers: tuple[float, float]) -> None:
    weight, value = numbers
    average, line = Average(0.9), Line(0.96)
    assert not average.restore([weight, value])
    assert not line.restore([weight, 1.0, value, 0.0, 0.0])
    assert (average, line) == (Average(0.9), Line(0.96))
    assert not line.restore([1.0, 1.0, 0.0, 0.0, 0.0])  # Nothing takes no time.


@given(anything)
def test_another_version_is_left_out(version: object) -> None:
    assume(version != VERSION)
    before, after = Estimates(), Estimates()
    learn(before)
    after.restore({**before.export(), "version": version})
    assert not after.known(MODEL)
    after.restore({})


def test_what_was_learned_since_the_start_is_not_restored_over() -> None:
    before, after = Estimates(rows_max=3), Estimates(rows_max=3)
    before.learn_load(MODEL, GPU, 1.0)
    before.learn_load(MODEL, OTHER_GPU, 1.0)
    after.learn_load(MODEL, GPU, 9.0)
    after.restore(before.export())
    assert after.load_s(MODEL, GPU) == 9.0
    assert after.load_s(MODEL, OTHER_GPU) == 1.0
    after.learn_load(MODEL, "gpu-2", 9.0)
    assert len(after._load_s.rows) == 3
    assert after.load_s(MODEL, GPU) == 9.0


def test_an_export_is_bounded() -> None:
    estimates = Estimates()
    for step in range(EXPORTED_MAX + 10):
        estimates.learn_load(f"model-{step}", GPU, 1.0)
    exported = estimates.export()["load_s"]
    assert isinstance(exported, list)
    assert len(exported) == EXPORTED_MAX
    assert exported[-1][:2] == [f"model-{EXPORTED_MAX + 9}", ""]


def test_the_first_values_are_a_plain_mean() -> None:
    average = Average(1.0)
    for value in (1.0, 2.0, 6.0):
        average.learn(value)
    assert average.value == pytest.approx(3.0)
