import os
import signal
import threading

import pytest

from i2pmae import interrupts
from i2pmae.interrupts import (
    Terminated,
    delayed_stop,
    raise_terminated,
    unwind_when_told_to_end,
)


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (signal.SIGINT, KeyboardInterrupt),
        (signal.SIGTERM, Terminated),
        (signal.SIGHUP, Terminated),
    ],
)
def test_a_request_waits_until_it_is_obeyed(number, error):
    before = signal.getsignal(number)
    with delayed_stop() as stop:
        assert not stop
        stop.obey()
        os.kill(os.getpid(), number)
        assert stop
        with pytest.raises(error):
            stop.obey()
    assert signal.getsignal(number) is before


def test_a_second_request_stops_at_once():
    with delayed_stop() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop


def test_other_threads_leave_signals_alone():
    found = []

    def use():
        with delayed_stop() as stop:
            found.append(bool(stop))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert found == [False]


def test_termination_unwinds():
    with pytest.raises(Terminated):
        raise_terminated(signal.SIGTERM, None)


def test_a_closed_terminal_ends_the_program_unless_nohup_said_otherwise(monkeypatch):
    handlers = {signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    unwind_when_told_to_end()
    assert handlers == dict.fromkeys(handlers, raise_terminated)
    handlers |= {signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_IGN}
    monkeypatch.setattr(interrupts, "_IGNORED", {signal.SIGHUP})
    unwind_when_told_to_end()
    assert handlers == {signal.SIGTERM: raise_terminated, signal.SIGHUP: signal.SIG_IGN}
