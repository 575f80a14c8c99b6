"""Run the command line: parse, run, and report errors in one line."""

from __future__ import annotations

import re
import shlex
import sys
from typing import Any, NoReturn

import typer

from i2pmae import terminal
from i2pmae.allocator import keep_freed_memory
from i2pmae.cli.app import app
from i2pmae.errors import ConfigError, I2PMAEError
from i2pmae.interrupts import (
    Terminated,
    end_when_told,
    forget_saved,
    ignore_endings,
    unwind_when_told_to_end,
    what_is_saved,
)
from i2pmae.launch import launched
from i2pmae.streams import guarded_streams

# How libraries, torch and the loader of shared objects say that there is none left.
_NO_MEMORY = re.compile(r"failed to map segment|can(no|')t allocate memory|bad_alloc", re.I)


def main() -> NoReturn:
    """Run the command line and exit: 0 done, 1 an error, 2 wrong usage, 129/130/143 stopped."""
    with guarded_streams():
        _run()


def _run() -> NoReturn:
    unwind_when_told_to_end()
    terminal.guard()
    forget_saved()
    keep_freed_memory()
    try:
        _check_words(sys.argv[1:])
        code = app(prog_name="i2pmae", standalone_mode=False)  # Ctrl-C comes back as 130
        sys.stdout.flush()
    except I2PMAEError as error:
        _complain(str(error))
        code = 1
    except Terminated as error:
        code = 128 + error.number
    except typer.Abort:
        code = 130
    except BrokenPipeError:
        code = 141
    except PermissionError as error:  # any path may have been read
        after = "" if what_is_saved() is None else f"; {_how_to_resume()}"
        _complain(f"{error.filename}: {error.strerror}; check its permissions{after}")
        code = 1
    except Exception as error:
        if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
            _complain(f"memory is used up: use smaller sizes; {_how_to_resume()}")
            sys.exit(1)
        if "can't start new thread" in str(error):
            _complain(
                f"the system allows no more threads (ulimit -u) or memory; {_how_to_resume()}"
            )
            sys.exit(1)
        if not hasattr(error, "format_message") or not hasattr(error, "exit_code"):
            if what_is_saved() is not None:  # a note is shown below the traceback
                error.add_note(f"i2pmae: after this error: {_how_to_resume()}")
            raise
        _complain(_usage(error))
        code = error.exit_code
    if code in (129, 130, 143):
        _complain(f"stopped; {_how_to_resume()}")
    sys.exit(code if isinstance(code, int) else 0)


def _usage(error: Any) -> str:
    """Describe a usage error and where the help is."""
    context = getattr(error, "ctx", None)
    words = ["i2pmae"] if context is None else context.command_path.split()
    message = error.format_message().replace(": Value error, ", ": ")  # of typer, for choices
    stop = "" if message.endswith((".", "?")) else "."
    return f"{message}{stop} See '{shlex.join([*words, '--help'])}'"


def _check_words(words: list[str]) -> None:
    """Refuse names that neither JSON nor a terminal could show, and URLs that name a machine."""
    for word in words:
        if "file://" in word and "file:///" not in word:  # pathlib would take it for a folder
            raise ConfigError(
                f"{word}: after file:// comes a path from the root, as in file:///data/NAME.zarr"
            )
        try:
            word.encode()
        except UnicodeEncodeError:
            raise ConfigError(f"{word!a}: its name is not in UTF-8; rename it") from None


def _how_to_resume() -> str:
    """What was saved, and the command that resumes it."""
    saved = what_is_saved()
    if launched() is not None:  # a launcher repeats its own command
        return "nothing is half-written, and the run can be resumed"
    if saved is None:
        return "nothing is half-written; run the same command again"
    command = sys.argv[1:]
    if command[:1] in (["pretrain"], ["finetune"]) and "--resume" not in command:
        command = [*command, "--resume"]
    return f"{saved}; to resume: {shlex.join(['i2pmae', *command])}"


def _complain(message: str) -> None:
    ignore_endings()
    if launched() is not None:
        from i2pmae.training.distributed import speaks_first

        if not speaks_first():
            return
    from i2pmae.progress import print_error

    print_error(message)
    end_when_told()
