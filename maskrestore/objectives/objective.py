"""What a task trains: its networks, and the loss terms of each optimizer step.

A phase is one optimizer step on one batch. Restoring has one, an image generator's training two.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from maskrestore.data.loader import Batch
from maskrestore.models.half_precision import HalfPrecision


@dataclass(frozen=True)
class Phase:
    """One optimizer step: `network` takes a step of `learning_rate` on sum(weights * losses)."""

    network: str
    learning_rate: float
    betas: tuple[float, float]
    weights: dict[str, float]
    losses: Callable[[Batch], dict[str, Tensor]]


class Objective:
    """What a task trains, and the frozen networks that its losses look through.

    This one trains nothing, for loss=none.
    """

    def __init__(self, **looked_through: nn.Module | None) -> None:
        self.networks: dict[str, nn.Module] = {}
        self.frozen = {name: net for name, net in looked_through.items() if net is not None}
        self._scaled = {
            name: module
            for name, network in self.frozen.items()
            for module in network.modules()
            if isinstance(module, HalfPrecision)
        }

    def phases(self) -> list[Phase]:
        """The optimizer steps on each batch, in their order."""
        return []

    def adapt_scaling(self, finite: Tensor) -> None:
        """Tell the frozen half-precision networks whether the step's gradient was finite (bool,
        0-dim, the same on every process)."""
        for network in self._scaled.values():
            network.update(finite)

    def scaling_state(self) -> dict[str, dict[str, Tensor]]:
        """What their gradient scaling goes on from, for the checkpoint."""
        return {name: network.scaling_state() for name, network in self._scaled.items()}

    def load_scaling(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Go on from `scaling_state`, as far as there is one."""
        for name in self._scaled.keys() & state.keys():
            self._scaled[name].load_scaling_state(state[name])

    def scales(self) -> dict[str, float]:
        """The factor that each last put on its gradient. Waits for the device."""
        return {name: float(network.scale) for name, network in self._scaled.items()}
