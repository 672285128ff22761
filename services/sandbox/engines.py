"""The engines that this service has, by name. A part of the composition root."""

from collections.abc import Iterator

from services.sandbox import profiles
from services.sandbox.adapters.gvisor.engine import GvisorJails
from services.sandbox.adapters.ns.engine import NsJails
from services.sandbox.adapters.runtimeclass.engine import RuntimeClassJails
from services.sandbox.config import Config
from services.sandbox.on_demand import OnDemand
from services.sandbox.ports import Jails


def jails(config: Config) -> Iterator[Jails]:
    """Everything that is configured, in the order in which it is chosen."""
    for engine in config.engines:
        first: Jails | None = None
        for name in config.profiles:
            made = _jails(config, engine, name)
            described = profiles.if_complete(config.root / name)
            if first is None or not config.others_on_demand or described is None:
                yield made
            else:
                yield OnDemand(made, described, proof=first)
            first = first or made


def _jails(config: Config, engine: str, profile: str) -> Jails:
    match engine:
        case "ns":
            return _ns(config, profile)
        case "gvisor":
            return GvisorJails(
                config.root / profile,
                runsc=config.runsc,
                usual=config.usual,
                warm_count=config.gvisor_warm_count,
            )
        case "runtimeclass":
            return RuntimeClassJails(_ns(config, profile))
        case _:
            raise AssertionError(f"no engine {engine}")


def _ns(config: Config, profile: str) -> NsJails:
    return NsJails(config.root / profile, usual=config.usual, warm_count=config.warm_count)
