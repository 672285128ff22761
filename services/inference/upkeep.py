"""What is done to instances on nobody's behalf: models are loaded and unloaded, and silence is looked into."""

import asyncio
from collections.abc import Mapping
from math import inf

import structlog

from services.common.errors import MeshError
from services.inference.core.catalog import Catalog
from services.inference.core.ledger import Ledger
from services.inference.errors import InstanceFailed
from services.inference.ports import Fault, Instance, Trouble

log = structlog.get_logger(__name__)

IDLE_WAIT_MAX_S = 120.0  # Longest that a prompt which nobody waits for is believed to be read.
# How long a probe may take: generous, as the watchdog of first tokens is, and for the same reasons.
PROBE_S = 20.0
_PROBE_PROMPTS = 10.0


class Upkeep:
    """Carries out; decides nothing. Never raises but when it is cancelled."""

    def __init__(self, instances: Mapping[str, Instance], ledger: Ledger, catalog: Catalog) -> None:
        self._instances = instances
        self._ledger = ledger
        self._catalog = catalog
        self._load_failures: dict[str, MeshError] = {}  # The last by model: bounded by the fleet's models.

    async def load(self, name: str, model: str) -> float | Trouble:
        """Load a model; return how many seconds that took, or why it failed."""
        view = self._ledger.view(name)
        card = view.cards.get(model)
        if card is None:
            return Trouble(Fault.BROKEN, "it does not have the model any more")
        try:
            load_s = await self._instances[name].load(
                card.name,
                embeds=card.only_embeds,
                options=self._catalog.runner(model),
                keep_alive_s=self._catalog.keep_alive_s(model, pinned=model in view.wishes.pinned),
            )
        except Trouble as trouble:
            log.warning("load_failed", instance=name, model=model, detail=trouble.detail)
            self._load_failures[model] = InstanceFailed(instance=name)
            return trouble
        self._load_failures.pop(model, None)
        return load_s

    async def unload(self, name: str, model: str) -> Trouble | None:
        """Free a model's memory; return why not, if the instance does not let us."""
        card = self._ledger.view(name).cards.get(model)
        try:
            await self._instances[name].unload(card.name if card is not None else model)
        except Trouble as trouble:
            log.warning("unload_failed", instance=name, model=model, detail=trouble.detail)
            return trouble
        return None

    async def probe(self, name: str) -> Trouble | None:
        """Have an instance generate one token with a model that it has loaded, or at least answer."""
        view = self._ledger.view(name)
        models = [model for model in sorted(view.residents) if model in view.cards]
        return await self._probed(name, models[0] if models else None, within_s=PROBE_S)

    async def until_idle(self, name: str, model: str, *, after_s: float, reading_s: float) -> Trouble | None:
        """Return when an instance answers for a model again, asking once it should be done with a prompt.

        `reading_s`: how long it takes to read all of that prompt; inf if nobody knows, and then the instance's own
        timeout decides.
        """
        await asyncio.sleep(min(after_s, IDLE_WAIT_MAX_S))
        return await self._probed(name, model, within_s=PROBE_S + _PROBE_PROMPTS * reading_s)

    def failure(self, model: str) -> MeshError:
        """Return what to tell those whose model could not be loaded."""
        return self._load_failures.get(model) or InstanceFailed(instance="")

    async def _probed(self, name: str, model: str | None, *, within_s: float) -> Trouble | None:
        try:
            async with asyncio.timeout(within_s if within_s < inf else None):
                await self._ask(name, model)
        except TimeoutError:
            trouble = Trouble(Fault.STALLED, f"a probe was not answered within {within_s:g} s")
        except Trouble as caught:
            trouble = caught
        else:
            return None
        log.warning("probe_failed", instance=name, fault=trouble.fault.name, detail=trouble.detail)
        return trouble

    async def _ask(self, name: str, model: str | None) -> None:
        card = None if model is None else self._ledger.view(name).cards.get(model)
        if card is None or model is None:
            await self._instances[name].probe(None)
        else:
            options = self._catalog.runner(model)
            await self._instances[name].probe(card.name, embeds=card.only_embeds, options=options)
