"""The engines that this service has, by name. A part of the composition root."""

from collections.abc import Iterator

from services.sandbox.adapters.gvisor.engine import GvisorJails
from services.sandbox.adapters.ns.engine import NsJails
from services.sandbox.adapters.runtimeclass.engine import RuntimeClassJails
from services.sandbox.config import Config
from services.sandbox.ports import Jails


def jails(config: Config) -> Iterator[Jails]:
    """Everything that is configured, in the order in which it is chosen."""
    for engine in config.engines:
        for profile in config.profiles:
            match engine:
                case "ns":
                    yield _ns(config, profile)
                case "gvisor":
                    yield GvisorJails(
                        config.root / profile,
                        runsc=config.runsc,
                        usual=config.usual,
                        warm_count=config.gvisor_warm_count,
                    )
                case "runtimeclass":
                    yield RuntimeClassJails(_ns(config, profile))
                case _:
                    raise AssertionError(f"no engine {engine}")


def _ns(config: Config, profile: str) -> NsJails:
    return NsJails(config.root / profile, usual=config.usual, warm_count=config.warm_count)
