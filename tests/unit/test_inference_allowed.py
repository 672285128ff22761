"""Which models a role and a tenant may use."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.core.allowed import (
    ALL,
    PATTERNS_MAX,
    Allowed,
    Patterns,
    either,
    read_tenant_models,
)
from services.inference.core.bounds import Bounds, Policies, read_policies
from services.inference.core.names import key


@pytest.mark.parametrize(
    ("pattern", "named", "others"),
    [
        ("llama3.2", ["llama3.2:latest"], ["llama3.2:3b", "llama3x2:latest"]),
        ("Llama3.2:*", ["llama3.2:3b", "llama3.2:latest"], ["llama3.20:3b", "my/llama3.2:3b"]),
        ("llama*", ["llama3.2:3b", "llama3:latest"], ["codellama:7b"]),
        ("*:7b*", ["mistral:7b", "mistral:7b-instruct"], ["mistral:latest"]),
        ("hf.co/acme/*", ["hf.co/acme/tiny:q4"], ["hf.co/other/tiny:q4"]),
        ("library/mistral", ["mistral:latest"], ["mistral:7b"]),
        ("m?[st]*", ["mist:1"], ["max:1"]),
        ("a+b.c:1", ["a+b.c:1"], ["aab.c:1", "a+bxc:1"]),
        ("*", ["anything:1"], []),
    ],
)
def test_patterns_fit_names(pattern: str, named: list[str], others: list[str]) -> None:
    patterns = Patterns((pattern,))
    assert all(map(patterns.fit, named))
    assert not any(map(patterns.fit, others))


def test_no_pattern_is_no_model() -> None:
    assert not Patterns(()).fit("a:latest")


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_text_is_a_pattern(text: str, name: str) -> None:
    assert Patterns((text,)).fit(key(name)) in {True, False}


def test_role_and_tenant_must_both_allow_a_model() -> None:
    allowed = Allowed(role=Patterns(("a*",)), tenant=Patterns(("*:1",)))
    assert [name for name in ("a:1", "a:2", "b:1") if allowed.names(name)] == ["a:1"]
    assert ALL.names("anything:latest")


def test_of_two_roles_either_is_enough() -> None:
    both = either(Patterns(("a",)), Patterns(("b",)))
    assert both is not None
    assert both.fit("a:latest")
    assert both.fit("b:latest")
    assert either(Patterns(("a",)), None) is None
    policies, found = read_policies(
        '{"user": {"models": ["a"]}, "service": {"models": []}}', default=Bounds()
    )
    assert not found
    assert policies.bounds(["user", "service"]).models == Patterns(("a",))
    assert policies.bounds(["service"]).models == Patterns(())
    assert policies.bounds(["admin"]).models is None
    assert policies.bounds(["user", "admin"]).models is None
    assert Policies().bounds(["user"]).models is None


@pytest.mark.parametrize(
    "value", ['"a"', "[1]", '[""]', "{}", "null", f"{['a'] * (PATTERNS_MAX + 1)}".replace("'", '"')]
)
def test_what_is_no_list_of_patterns_is_named(value: str) -> None:
    _, found = read_policies(f'{{"user": {{"models": {value}}}}}', default=Bounds())
    assert len(found) == 1
    assert "'user'.models" in found[0]
    _, found = read_tenant_models(f'{{"acme": {value}}}')
    assert len(found) == 1
    assert "'acme'" in found[0]


def test_tenants_are_read() -> None:
    found, mistakes = read_tenant_models('{"acme": ["a", "b:*"], "none": []}')
    assert not mistakes
    assert found == {"acme": Patterns(("a", "b:*")), "none": Patterns(())}
    assert read_tenant_models("[")[1] == ["is not JSON"]
