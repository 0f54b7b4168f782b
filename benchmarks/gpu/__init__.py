"""Everything that a GPU has to answer, in one prepared command: python -m benchmarks.gpu."""
