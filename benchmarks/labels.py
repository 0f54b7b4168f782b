"""The classes that are measured with: those of Cityscapes."""

from maskrestore.config.labels import load_labels

LABELS = load_labels("cityscapes")
NUM_CLASSES = LABELS.num_classes
