"""The grid: every cell of the table run, watched and reported."""
