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


class OutageError(I2PMAEError):
    """The system failed while data was read, so nothing is known of the data: try again later."""


class WeightsError(I2PMAEError):
    """Weights of an image model cannot be had or do not fit."""


class DownloadError(WeightsError):
    """Weights of an image model are not on this machine, and cannot be downloaded."""


class StoreError(I2PMAEError):
    """A store is missing, incomplete, damaged or locked."""


class StoreDamageError(StoreError):
    """A checksum, a size or a missing file proves that a part of a store is damaged."""


class StoreMismatchError(StoreError):
    """A store was made with other settings than the ones asked for."""


class WorkersError(I2PMAEError):
    """Workers of a cluster were lost, and with them the work could not be done."""


class CheckpointError(I2PMAEError):
    """A checkpoint cannot be read or does not hold what is needed."""


class HubError(I2PMAEError):
    """The Hugging Face Hub cannot be reached, has no such repository, or refuses what is asked."""


class TrainingError(I2PMAEError):
    """Training cannot continue: a loss is not finite, or memory ran out."""


class OutputError(I2PMAEError):
    """Standard output cannot be written."""


def one_line(text: object, longest: int = 300) -> str:
    """Text without line breaks or runs of spaces, cut where it gets long."""
    line = " ".join(str(text).split())
    return line if len(line) <= longest else line[: longest - 3] + "..."


def reason(error: BaseException, longest: int = 120) -> str:
    """What an error of a library says, on one line; its kind if it says nothing."""
    return one_line(error, longest).rstrip(".") or type(error).__name__
