"""The networks. None of them knows of processes, files or clocks."""
