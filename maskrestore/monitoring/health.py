"""Whether training goes well: steps without effect, losses that jump, and when to go back.

Each step leaves its scalars on the device; they are read together, once per report, so that no step
waits for the device. A step with a non-finite gradient has had no effect by then
(distributed/engine.py).

In fp16 a gradient that overflows under a large loss scale has no effect either, and halves the
scale: that is how it is found, and no fault. It is one where not even the scale 1 helps.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from maskrestore.config.execution import HealthConfig

HISTORY, ENOUGH = 128, 32
"""Steps that a loss is compared with (OLMo-core's window), and fewest for a standard deviation."""
GRADIENT = "gradient"


@dataclass(frozen=True)
class Step:
    """One optimizer step of this process: `scalars` are its unweighted loss terms and gradient
    norms, 0-dim on the device; `num_images` were seen after it."""

    num_images: int
    keys: tuple[str, ...]
    total: Tensor
    terms: dict[str, Tensor]
    norms: dict[str, Tensor]
    scales: dict[str, Tensor] = field(default_factory=dict)
    """What each network's loss was multiplied by (Engine.loss_scale)."""


@dataclass(frozen=True)
class BadStep:
    """A step that had no effect, or jumped: after it num_images were seen. `terms` of `processes`
    were not finite ("gradient" where all losses were); nothing of that for a jump."""

    num_images: int
    terms: tuple[str, ...]
    processes: tuple[int, ...]
    scales: dict[str, float] = field(default_factory=dict)
    """Step.scales."""


@dataclass(frozen=True)
class Report:
    """The steps since the last report, the same on every process."""

    total: float
    """Mean weighted sum of the terms over the processes and the steps that had an effect."""
    losses: dict[str, float]
    """Mean of each unweighted term, likewise."""
    gradient_norms: dict[str, float]
    """Mean L2 norm before clipping, of each trained network."""
    skipped: list[BadStep]
    bad_images: tuple[int, int] | None
    """Images (from, to) to pass over after going back, or None if there is no need to."""
    reason: str
    num_lowered: int = 0
    """Steps that had no effect but to lower a loss scale."""
    scales: dict[str, float] = field(default_factory=dict)
    """Loss scales to go on with after going back, by network: those of the first bad step."""


class Health:
    """Collects steps and judges them. gather: [...] of this process -> [processes, ...].
    history: of the run that is resumed."""

    def __init__(
        self,
        config: HealthConfig,
        batch_size: int,
        gather: Callable[[Tensor], Tensor],
        history: Sequence[float] = (),
    ) -> None:
        self._config, self._batch_size, self._gather = config, batch_size, gather
        self._steps: list[Step] = []
        self._read: list[Step] = []
        self._totals: deque[float] = deque(history, maxlen=HISTORY)
        self._streak: list[BadStep] = []
        self._lowered: list[BadStep] = []

    @property
    def num_in_a_row(self) -> int:
        """Faults that the last report ended with."""
        return len(self._streak)

    @property
    def history(self) -> list[float]:
        """Losses that the next ones are compared with, for the checkpoint."""
        return list(self._totals)

    def add(self, step: Step) -> None:
        """Count a step."""
        self._steps.append(step)

    def keys_of(self, num_images: int) -> tuple[str, ...]:
        """This process's sample keys of a step of the last report."""
        return next((step.keys for step in self._read if step.num_images == num_images), ())

    def read(self) -> Report | None:
        """Judge the steps since the last call, in their order; None if there were none. Call it on
        all processes: it gathers, and waits for the device once."""
        steps, self._steps = self._steps, []
        self._read = steps
        if not steps:
            return None
        terms, norms, scaled = list(steps[0].terms), list(steps[0].norms), list(steps[0].scales)
        table = [
            [step.total, *step.terms.values(), *step.norms.values(), *step.scales.values()]
            for step in steps
        ]
        rows = torch.stack([torch.stack(row).float() for row in table])
        # [processes, steps, 1 + terms + norms], and the scales, which all processes share.
        gathered, num_figures = self._gather(rows).double().cpu(), 1 + len(terms) + len(norms)
        scalars, factors = gathered[..., :num_figures], gathered[0, :, num_figures:].tolist()
        good, skipped, num_lowered = [], [], 0
        bad_images, reason, scales = None, "", {}
        for number, step in enumerate(steps):
            row = scalars[:, number]
            finite = row.isfinite()
            used = dict(zip(scaled, factors[number], strict=True))
            if not finite.all():
                bad = _bad_step(step.num_images, terms, finite, used)
                scale = _lowest_scale(norms, finite[:, 1 + len(terms) :], used)
                if finite[:, : 1 + len(terms)].all() and scale > 1:
                    self._lowered.append(bad)
                    num_lowered += 1
                    continue
                self._add(bad)
                skipped.append(bad)
                if len(self._streak) >= self._config.max_skipped_steps:
                    first, last = self._streak_images()
                    if bad_images is None:
                        reason, scales = self.describe_streak(), self._streak[0].scales
                    bad_images = (bad_images[0] if bad_images else first, last)
                continue
            self._streak.clear()
            self._lowered.clear()
            good.append(number)
            total = float(row[:, 0].mean())
            if self._is_spike(total) and bad_images is None:
                bad_images = (step.num_images - self._batch_size, step.num_images)
                scales = used
                reason = (
                    f"the loss jumped to {total:.4g} at image {step.num_images}, from a mean of "
                    f"{torch.tensor(self._totals).mean():.4g}"
                )
            else:
                self._totals.append(total)
        means = scalars[:, good].mean((0, 1)).tolist() if good else [math.nan] * num_figures
        losses = dict(zip(terms, means[1:], strict=False))
        gradient_norms = dict(zip(norms, means[1 + len(terms) :], strict=True))
        return Report(
            means[0],
            losses,
            gradient_norms,
            skipped,
            bad_images,
            reason,
            num_lowered,
            scales,
        )

    def describe_streak(self) -> str:
        """The steps without effect that the last report ended with, in words."""
        first, last = self._streak[0], self._streak[-1]
        return (
            f"{_kind(last.terms)} not finite at image {first.num_images}"
            + (f" to {last.num_images}" if last is not first else "")
            + f" ({len(self._streak)} steps in a row)"
        )

    def _add(self, bad: BadStep) -> None:
        """A fault; where lowering the scale was no remedy, the steps that did so were the same."""
        if bad.terms == (GRADIENT,):
            self._streak += self._lowered
        self._lowered.clear()
        self._streak.append(bad)

    def _streak_images(self) -> tuple[int, int]:
        return self._streak[0].num_images - self._batch_size, self._streak[-1].num_images

    def _is_spike(self, total: float) -> bool:
        limit = self._config.spike_deviations
        if not limit or len(self._totals) < ENOUGH:
            return False
        history = torch.tensor(self._totals, dtype=torch.float64)
        return total > float(history.mean() + limit * history.std())


def _kind(terms: tuple[str, ...]) -> str:
    return "gradient is" if terms == (GRADIENT,) else f"loss {', '.join(terms)} is"


def _bad_step(
    num_images: int, terms: list[str], finite: Tensor, scales: dict[str, float]
) -> BadStep:
    of_terms = finite[:, 1 : 1 + len(terms)]
    names = tuple(name for name, good in zip(terms, of_terms.all(0), strict=True) if not good)
    processes = tuple((~of_terms.all(1)).nonzero().flatten().tolist())
    everyone = tuple(range(len(finite)))
    return BadStep(num_images, names or (GRADIENT,), processes or everyone, scales)


def _lowest_scale(norms: list[str], finite: Tensor, scales: dict[str, float]) -> float:
    """Of the networks whose gradient is not finite. finite: bool [processes, norms]."""
    is_finite = dict(zip(norms, finite.all(0).tolist(), strict=True))
    return min((scales.get(name, 1.0) for name in norms if not is_finite[name]), default=1.0)
