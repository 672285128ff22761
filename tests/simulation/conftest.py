"""How many seeds the simulations run: `pytest tests/simulation --seeds 10000`, or `make sim SEEDS=10000`."""

import pytest

SEEDS_DEFAULT = 50


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seeds", type=int, default=SEEDS_DEFAULT, help="seeds per simulation")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        # Not known to pytest when this folder is only collected, not named.
        seed_count = metafunc.config.getoption("seeds", default=SEEDS_DEFAULT)
        metafunc.parametrize("seed", range(seed_count), ids="seed{}".format)
