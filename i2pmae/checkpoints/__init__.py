"""Checkpoint files, the networks in them, and the names of the release."""
