"""What a process has once only, so that a test could change it for all later ones."""

import os
import re
import signal
from threading import Thread
from typing import NamedTuple

import torch

# Beyond these are real-time signals, which nobody uses. pytest-timeout takes SIGALRM; the first
# DataLoader with processes takes SIGCHLD for good.
_OTHERS = {signal.SIGALRM, signal.SIGCHLD}
_SIGNALS = [s for s in signal.Signals if s < signal.SIGRTMIN and s not in _OTHERS]

_VARIABLES = re.compile("_NUM_THREADS$|^MALLOC_")  # what dask sets for its workers


class ProcessState(NamedTuple):
    """Numbers of threads, here, in threads and in programs to come; signal handlers; timers."""

    threads: list[tuple[str, str]]
    threads_to_come: int
    handlers: dict[signal.Signals, object]
    timers: list[bool]
    environment: dict[str, str]


def process_state() -> ProcessState:
    """How things stand, in a tenth of a millisecond."""
    to_come: list[int] = []
    thread = Thread(target=lambda: to_come.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return ProcessState(
        re.findall(r"(\w+)\(\) : (\d+)", torch.__config__.parallel_info()),
        to_come[0],
        {number: signal.getsignal(number) for number in _SIGNALS},
        [signal.getitimer(which)[0] > 0 for which in (signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)],
        {name: value for name, value in os.environ.items() if _VARIABLES.search(name)},
    )


def restore(before: ProcessState) -> list[str]:
    """Put things back; returns what had changed, one line each."""
    for number in (signal.SIGTERM, signal.SIGHUP):  # a command takes them until its process ends
        signal.signal(number, before.handlers[number])
    after = process_state()
    if after == before:
        return []
    changes = []
    for number, handler in after.handlers.items():
        if handler != before.handlers[number]:
            changes.append(f"{number.name}: {before.handlers[number]} became {handler}")
            signal.signal(number, before.handlers[number])
    if after.timers != before.timers:
        changes.append("a timer is left")
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
    if (after.threads, after.threads_to_come) != (before.threads, before.threads_to_come):
        changes.append(
            f"threads: {before.threads} became {after.threads}, and of threads to come "
            f"{before.threads_to_come} became {after.threads_to_come}"
        )
        torch.set_num_threads(before.threads_to_come)
    for name in sorted(after.environment.keys() | before.environment.keys()):
        old, new = before.environment.get(name), after.environment.get(name)
        if old != new:
            changes.append(f"{name}: {old} became {new}")
            os.environ.pop(name, None)
            if old is not None:
                os.environ[name] = old
    return changes
