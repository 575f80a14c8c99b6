"""The command line: options made from the settings, one table of commands, one exit."""

from i2pmae.cli.app import app
from i2pmae.cli.main import main

__all__ = ["app", "main"]
