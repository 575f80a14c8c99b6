"""From shapes on disk to the shards of a store: reading, encoding, and who does it.

`loading` reads shapes, `encoding` renders them and asks the image model, `shards` puts both into
the arrays of a store's shards; `local` does all this in one process and `workers` on a dask
cluster. `recorded` says what a store tells of how it was made.
"""
