"""One module per command; each has one `run`."""
