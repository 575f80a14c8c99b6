"""What tests leave to later ones is noticed and put back."""

import os
import signal
from threading import Thread

import torch

from i2pmae.interrupts import ignore_endings, unwind_when_told_to_end

from .process_state import process_state, restore


def test_a_test_that_changes_nothing_passes():
    assert restore(process_state()) == []


def test_threads_are_noticed_and_put_back():
    before = process_state()
    torch.set_num_threads(before.threads_to_come + 2)
    assert any("threads" in change for change in restore(before))
    assert process_state() == before


def test_the_number_that_another_thread_sets_for_threads_to_come_is_noticed():
    before = process_state()
    thread = Thread(target=torch.set_num_threads, args=(before.threads_to_come + 2,))
    thread.start()
    thread.join()
    assert torch.get_num_threads() == before.threads_to_come
    assert restore(before) != []
    assert process_state() == before


def test_signal_handlers_and_timers_are_noticed_and_put_back():
    before = process_state()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_VIRTUAL, 1000)
    changes = restore(before)
    assert changes[0].startswith("SIGUSR1: ")
    assert changes[1:] == ["a timer is left"]
    assert process_state() == before


def test_the_handlers_of_a_command_end_with_the_test():
    before = process_state()
    unwind_when_told_to_end()
    ignore_endings()
    assert restore(before) == []
    assert process_state() == before


def test_the_number_of_threads_of_programs_to_come_is_noticed_and_put_back(monkeypatch):
    monkeypatch.setenv("HERE_NUM_THREADS", "1")
    before = process_state()
    os.environ["NEW_NUM_THREADS"] = "1"
    del os.environ["HERE_NUM_THREADS"]
    changes = ["HERE_NUM_THREADS: 1 became None", "NEW_NUM_THREADS: None became 1"]
    assert restore(before) == changes
    assert process_state() == before
