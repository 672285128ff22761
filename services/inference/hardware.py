"""What this machine knows of its instances that they do not say: their GPUs, and why their process is not there."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from services.inference.core.gpus import Gpu, gpus_of
from services.inference.core.ledger import InstanceView


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """Completes a look at an instance."""

    gpus: Callable[[], tuple[Gpu, ...]]
    held: Mapping[str, str]  # Owned instances, and the GPU that each was given.
    alone: str  # The only other instance on this machine; empty if there is not just one.
    vram_bytes: int  # Of every instance, as configured; 0 if that is to be found out.
    trouble: Callable[[str], str]  # Why an owned instance does not run; empty if it does.

    def complete(self, view: InstanceView) -> InstanceView:
        """Return the view with what the instance itself could not tell."""
        gpus = gpus_of(view.name, self.held, self.gpus(), alone=self.alone)
        owned_bytes = sum(gpu.memory_bytes for gpu in gpus) if view.name in self.held else 0
        reason = "" if view.ready else self.trouble(view.name)
        return replace(
            view,
            gpus=gpus,
            vram_bytes=self.vram_bytes or owned_bytes,
            unready_reason=reason or view.unready_reason,
        )
