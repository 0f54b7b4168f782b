"""Checkpoints while training, and the weights that others load at its end."""

from typing import Any

from maskrestore.models.weights import save_spade_generator, save_weights
from maskrestore.runs import checkpoint
from maskrestore.training.setup import Run


class Saving:
    """Saves a run now and then, in any case before it is evaluated and before it ends."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._saver = checkpoint.Saver(run.config.run / "checkpoints", run.config.training)
        self.last = run.num_images if run.resumed_from else None
        """Images that the newest checkpoint had seen."""

    @property
    def has_failed(self) -> bool:
        """Whether a save behind training's back could not be written; `finish` says why."""
        return self._saver.failed

    def is_due(self, force: bool) -> bool:
        """Whether to save now: at checkpoint_images, before the first step, or by `force`; but
        nothing twice."""
        run = self._run
        is_time = force or run.has_passed(run.config.training.checkpoint_images)
        return (is_time or self.last is None) and run.num_images != self.last

    def if_due(self, force: bool) -> None:
        """Save what there is to save. Collective: the state is put together by all processes."""
        run = self._run
        if self.is_due(force) and run.engines:  # loss=none trains nothing
            run.telemetry.state("saving")
            state = run.state()
            run.on_main(lambda: self._saver.save(run.num_images, state))
            self.last = run.num_images
        run.telemetry.saved(self._saver.last)

    def finish(self) -> None:
        """Return when all is on disk; for the main process alone. OSError if it cannot be."""
        self._saver.wait()


def save_networks(run: Run) -> None:
    """What others load: generator.pth in the official layout, or mask_generator.pth. Collective."""
    whole: dict[str, Any] = {name: engine.whole() for name, engine in run.engines.items()}

    def save() -> None:
        if "generator" in whole:
            save_spade_generator(whole["generator"], run.config.run / "generator.pth")
        elif "mask_generator" in whole:
            path = run.config.run / "mask_generator.pth"
            save_weights(whole["mask_generator"].state_dict(), path)

    run.on_main(save)
