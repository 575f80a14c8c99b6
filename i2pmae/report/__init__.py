"""One self-contained HTML page about a store or a run."""
