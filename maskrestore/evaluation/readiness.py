"""What an evaluation needs, found out before a run trains rather than after it."""

from maskrestore.config.run import RunConfig
from maskrestore.data.shard_folder import open_split
from maskrestore.evaluation.image_distances import ImageDistances


def check_ready(config: RunConfig, with_images: bool) -> None:
    """Raises UserError if there is no val split, or no weights for the image distances, which
    with_images needs."""
    open_split(config.data, "val").close()
    if with_images:
        ImageDistances(config.evaluation.features, config.evaluation.inception_weights)
