"""Restore incomplete segmentation masks, trained through a frozen SPADE image generator."""
