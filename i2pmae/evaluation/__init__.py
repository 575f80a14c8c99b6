"""Measures of a trained encoder."""
