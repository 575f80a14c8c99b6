"""Errors a user can fix.

The command line prints each as one line on stderr and exits with 1; anything else is a bug
and keeps its traceback. A message names what is wrong, where, what was found, what was
expected, and the next step.
"""


class I2PMAEError(Exception):
    """Base of every error that a user can fix."""


class ConfigError(I2PMAEError):
    """A recipe or an option holds a value that cannot be used."""


class DataError(I2PMAEError):
    """A data set or one of its shapes cannot be read or used."""


class WeightsError(I2PMAEError):
    """Weights of an image model cannot be had or do not fit."""


class StoreError(I2PMAEError):
    """A store is missing, incomplete, damaged or locked."""


class StoreMismatchError(StoreError):
    """A store was made with other settings than the ones asked for."""


class WorkersError(I2PMAEError):
    """Workers of a cluster were lost, and with them the work could not be done."""


class CheckpointError(I2PMAEError):
    """A checkpoint cannot be read or does not hold what is needed."""


class TrainingError(I2PMAEError):
    """Training cannot go on: a loss is not finite, or memory ran out."""
