"""Programs that measure maskrestore against what others would use, and their plain references."""
