"""Where things live among replicas."""

from services.agent.core.rendezvous import ranked

TARGETS = [f"sandbox-{n}:50054" for n in range(5)]
KEYS = [f"o\0user {n}" for n in range(1000)]


def test_everybody_picks_the_same_one_in_whatever_order_they_know_them() -> None:
    assert all(ranked(TARGETS, key) == ranked(TARGETS[::-1], key) for key in KEYS)
    assert sorted(ranked(TARGETS, "x")) == TARGETS


def test_each_has_its_share() -> None:
    homes = [ranked(TARGETS, key)[0] for key in KEYS]
    assert all(150 < homes.count(target) < 250 for target in TARGETS)


def test_only_what_lived_at_a_lost_one_moves_and_to_its_stand_in() -> None:
    left = TARGETS[1:]
    for key in KEYS:
        home, stand_in = ranked(TARGETS, key)[:2]
        assert ranked(left, key)[0] == (stand_in if home == TARGETS[0] else home)
