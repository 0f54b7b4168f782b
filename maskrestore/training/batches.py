"""The batches of a run: the next one is made ready while a step is taken."""

from maskrestore.data.loader import Batch, training_batches
from maskrestore.data.sampler import training_spans
from maskrestore.monitoring.meter import OTHER
from maskrestore.runs import run_folder
from maskrestore.training.setup import Run
from maskrestore.utils.errors import UserError


class Batches:
    """This process's part of each batch of a run, from the image on that the run has come to.

    Windows of images that the run went back from are not even read. Collective at the start, where
    it raises UserError on all processes if the first batch cannot be read.
    """

    def __init__(self, run: Run) -> None:
        config, accelerator = run.config, run.accelerator
        rank, world_size = accelerator.process_index, accelerator.num_processes
        self._run = run
        # As the main process sees it: it has written it.
        passed_over = run.gather(run_folder.passed_over(config.run))[0]
        self._spans = training_spans(run.num_images, config.training.batch_size, passed_over)
        self._batches = training_batches(
            config, run.num_images, rank, world_size, run.left_out_shards, passed_over
        )
        self.mistake: UserError | None = None
        """What is wrong with the shard of the next batch; the others have to hear of it."""
        run.together(self._fetch)

    def _fetch(self) -> None:
        start, self._stop, is_trained = next(self._spans)
        is_needed = is_trained and start < self._run.config.total_images
        self._upcoming = next(self._batches) if is_needed else None

    def take(self) -> Batch | None:
        """The batch of the next step, on the device, counted as seen; None for a window of images
        that the run passes over. The one behind it is fetched meanwhile."""
        batch = self._upcoming and self._upcoming.to(self._run.accelerator.device)
        self._run.advance(self._stop)
        try:
            self._fetch()
        except UserError as error:
            self.mistake = error
        self._run.meter.mark(OTHER)  # until here it was waiting for data
        return batch

    def close(self) -> None:
        """Stop reading ahead."""
        self._batches.close()
