"""Keys of prompts that say no more than they should, and a memory that is small and right."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from services.inference.core.prefixes import Prefix, Prefixes, chain

INSTANCES = ("gpu-0", "gpu-1")
MODELS = ("tiny:latest", "huge:latest")
KEPT_MAX = 3

parts = st.lists(st.tuples(st.text(max_size=3), st.integers(min_value=0, max_value=50)), max_size=6)


def keys(prefixes: Sequence[Prefix]) -> list[str]:
    return [prefix.key for prefix in prefixes]


@given(parts, parts)
def test_prompts_share_keys_as_far_as_they_share_parts(
    one: list[tuple[str, int]], other: list[tuple[str, int]]
) -> None:
    shared = 0
    for (text, _), (other_text, _) in zip(one, other, strict=False):
        if text != other_text:
            break
        shared += 1
    ours, theirs = keys(chain("seed", one))[::-1], keys(chain("seed", other))[::-1]
    assert ours[:shared] == theirs[:shared]
    assert not set(ours[shared:]) & set(theirs[shared:])


@given(parts)
def test_another_seed_shares_nothing(prompt: list[tuple[str, int]]) -> None:
    assert not set(keys(chain("tenant-a", prompt))) & set(keys(chain("tenant-b", prompt)))


def test_a_seed_is_no_part() -> None:
    assert not set(keys(chain("ab", [("c", 1)]))) & set(keys(chain("a", [("b", 1), ("c", 1)])))


def test_the_longest_are_kept_the_longest_first() -> None:
    prompt = [("system", 100), ("question", 20), ("answer", 3), ("question", 4)]
    assert [prefix.token_count for prefix in chain("seed", prompt)] == [127, 123, 120, 100]
    assert chain("seed", prompt, kept=2) == chain("seed", prompt)[:2]
    assert chain("seed", []) == ()
    assert len(chain("seed", [("same", 1)] * 100)) == 8


def test_any_text_has_a_key() -> None:
    assert len(set(keys(chain("seed", [("\ud800", 1), ("\udfff\x00", 1)])))) == 2


def prefix(name: int) -> Prefix:
    return Prefix(key=str(name), token_count=10 * name)


def prompt_of(names: set[int]) -> list[Prefix]:
    return [prefix(name) for name in sorted(names, reverse=True)]


happenings = st.lists(
    st.tuples(
        st.sampled_from(("remember", "remember", "forget", "forget all")),
        st.sampled_from(INSTANCES),
        st.sampled_from(MODELS),
        st.sets(st.integers(min_value=1, max_value=6), max_size=5),
    ),
    max_size=40,
)


@given(happenings)
def test_the_memory_is_that_of_a_plain_list(steps: list[tuple[str, str, str, set[int]]]) -> None:
    """The same as with lists that are searched, at every step and for every question."""
    memory = Prefixes(kept_max=KEPT_MAX)
    wanted: dict[tuple[str, str], list[str]] = {
        (instance, model): [] for instance in INSTANCES for model in MODELS
    }
    for happening, instance, model, names in steps:
        match happening:
            case "remember":
                memory.remember(instance, model, prompt_of(names))
                kept = wanted[instance, model]
                for name in sorted(names):
                    kept[:] = [key for key in kept if key != str(name)] + [str(name)]
                    del kept[:-KEPT_MAX]
            case "forget":
                memory.forget(instance, model)
                wanted[instance, model].clear()
            case _:
                memory.forget(instance)
                for each in MODELS:
                    wanted[instance, each].clear()
        for each in MODELS:
            found = memory.reusable(each, prompt_of({1, 2, 3, 4, 5, 6}))
            assert found == {
                where: 10 * max(int(key) for key in wanted[where, each])
                for where in INSTANCES
                if wanted[where, each]
            }


def test_what_is_forgotten_takes_no_place() -> None:
    memory = Prefixes(kept_max=2)
    for name in range(1, 100):
        memory.remember("gpu-0", "tiny:latest", [prefix(name)])
    assert len(memory._holders) == 2
    memory.forget("gpu-0", "tiny:latest")
    memory.forget("gpu-0")
    memory.forget("never seen", "tiny:latest")
    assert not memory._holders
    assert not memory._kept


def test_used_again_is_kept_longer() -> None:
    memory = Prefixes(kept_max=2)
    for name in (1, 2, 1, 3):
        memory.remember("gpu-0", "tiny:latest", [prefix(name)])
    assert memory.reusable("tiny:latest", [prefix(1)]) == {"gpu-0": 10}
    assert memory.reusable("tiny:latest", [prefix(2)]) == {}
