import json
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from i2pmae.errors import StoreError
from i2pmae.store import lock as locks
from i2pmae.store.lock import FolderLock, Owner

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "shapes.zarr"


def leave_lock(folder, owner):
    lock = folder.with_name("shapes.zarr.lock")
    lock.write_text(json.dumps(asdict(owner)))
    return lock


def ended_process():
    """A process that has certainly ended, and been waited for."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_the_second_is_refused_and_told_who_holds_it(folder):
    with FolderLock(folder):
        with pytest.raises(StoreError, match=str(Owner.this_process().pid)) as raised:
            FolderLock(folder).acquire()
        assert socket.gethostname() in str(raised.value)
        assert str(folder.with_name("shapes.zarr.lock")) in str(raised.value)
    assert not list(folder.parent.iterdir())


def test_a_link_to_a_store_has_no_lock_of_its_own(folder):
    (folder.parent / "elsewhere").mkdir()
    link = folder.parent / "elsewhere" / "link.zarr"
    link.symlink_to(folder)
    for first, second in (
        (folder, link),
        (link, folder),
        (folder, folder.parent / "elsewhere" / ".." / folder.name),
    ):
        with FolderLock(first), pytest.raises(StoreError, match="is being written"):
            FolderLock(second).acquire()


def test_a_released_lock_can_be_taken_again(folder):
    for _ in range(2):
        with FolderLock(folder):
            assert folder.with_name("shapes.zarr.lock").exists()


def test_a_refused_lock_is_not_released(folder):
    with FolderLock(folder):
        second = FolderLock(folder)
        with pytest.raises(StoreError):
            second.acquire()
        second.release()
        assert folder.with_name("shapes.zarr.lock").exists()


@pytest.mark.parametrize("started", ["", "boot/123"])
def test_the_lock_of_an_ended_process_is_taken_over(folder, started):
    lock = leave_lock(folder, replace(Owner.this_process(), pid=ended_process(), started=started))
    with FolderLock(folder):
        assert json.loads(lock.read_text()) == asdict(Owner.this_process())
    assert not list(folder.parent.iterdir())


def test_a_process_with_the_number_of_an_ended_one_does_not_hold_its_lock(folder):
    leave_lock(folder, replace(Owner.this_process(), started="earlier boot/1"))
    with FolderLock(folder):
        pass


@pytest.mark.parametrize("started", ["", "boot/123"])
def test_another_machine_may_still_be_writing(folder, started):
    """Whatever has become of the process of the same number here."""
    leave_lock(folder, Owner(host="elsewhere", pid=ended_process(), started=started))
    with pytest.raises(StoreError, match="elsewhere"):
        FolderLock(folder).acquire()


def test_another_container_of_the_same_host_may_still_be_writing(folder):
    """There a process has the same number, and here another one, or none."""
    lock = leave_lock(folder, replace(Owner.this_process(), started="boot/1", namespace="pid:[1]"))
    os.utime(lock)
    done, beats = threading.Event(), []

    def beat():
        while not done.wait(0.1):
            os.utime(lock)
            beats.append(1)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(StoreError, match="being written"):
            FolderLock(folder).acquire()
    finally:
        done.set()
        thread.join()
    assert beats  # it was watched, not refused for being fresh


def test_a_container_that_was_started_again_goes_on_after_a_while(folder, monkeypatch):
    monkeypatch.setattr(locks, "SILENCE", 0.2)
    leave_lock(folder, replace(Owner.this_process(), started="boot/1", namespace="pid:[1]"))
    with FolderLock(folder):
        pass


def test_a_lock_of_an_earlier_version_is_of_this_container(folder):
    leave_lock(folder, replace(Owner.this_process(), started="boot/1", namespace=""))
    with FolderLock(folder):
        pass


def test_a_process_that_has_ended_and_is_not_waited_for_is_gone():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = replace(Owner.this_process(), pid=child.pid, started=locks._start_of(child.pid))
    assert not owner.is_gone()
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it stays, as a zombie
    try:
        assert owner.is_gone()
    finally:
        child.communicate()


def test_the_name_of_a_process_does_not_hide_when_it_started():
    before, name = Owner.this_process(), Path("/proc/self/comm").read_text()
    try:
        Path("/proc/self/comm").write_text("a) b (c) d")
        assert Owner.this_process() == before
    finally:
        Path("/proc/self/comm").write_text(name.strip())


def test_a_process_of_another_user_lives(monkeypatch):
    def kill(*_arguments):
        raise PermissionError

    monkeypatch.setattr(os, "kill", kill)
    assert not replace(Owner.this_process(), started="").is_gone()


def test_a_file_system_without_hard_links(folder, monkeypatch):
    def link(*_arguments):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    with FolderLock(folder), pytest.raises(StoreError, match=str(os.getpid())):
        FolderLock(folder).acquire()
    assert not list(folder.parent.iterdir())


def test_a_held_lock_shows_life(folder, monkeypatch):
    monkeypatch.setattr(locks, "BEAT", 0.01)
    with FolderLock(folder) as lock:
        os.utime(lock.path, (0, 0))
        while lock.path.stat().st_mtime == 0:
            time.sleep(0.01)


def test_the_lock_of_another_machine_is_taken_over_when_it_is_silent(folder, monkeypatch, capfd):
    monkeypatch.setattr(locks, "SILENCE", 0.2)
    lock = leave_lock(folder, Owner(host="elsewhere", pid=1, started=""))
    os.utime(lock, (0, 0))
    with FolderLock(folder):
        assert json.loads(lock.read_text()) == asdict(Owner.this_process())
    assert "waiting up to" in capfd.readouterr().err


def test_not_while_it_shows_life_whatever_its_clock_says(folder, monkeypatch):
    monkeypatch.setattr(locks, "SILENCE", 2.0)
    lock = leave_lock(folder, Owner(host="elsewhere", pid=1, started=""))
    os.utime(lock, (0, 0))
    looks = iter(range(100))
    life = FolderLock._life

    def beats_of_a_slow_clock(self):
        os.utime(lock, (0, next(looks) // 3))
        return life(self)

    monkeypatch.setattr(FolderLock, "_life", beats_of_a_slow_clock)
    with pytest.raises(StoreError, match="elsewhere"):
        FolderLock(folder).acquire()


@pytest.mark.parametrize("beat", [0.01, 1000])
def test_who_lost_the_lock_is_told_and_leaves_it_alone(folder, monkeypatch, beat):
    monkeypatch.setattr(locks, "BEAT", beat)
    with FolderLock(folder) as held:
        held.require()
        lock = leave_lock(folder, Owner(host="elsewhere", pid=1, started=""))
        while beat < 1 and not held._was_lost:
            time.sleep(0.01)
        with pytest.raises(StoreError, match="was taken over by another process"):
            held.require()
    assert json.loads(lock.read_text())["host"] == "elsewhere"


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"pid": 1}'])
def test_a_lock_that_names_nobody_is_taken_over(folder, content):
    folder.with_name("shapes.zarr.lock").write_text(content)
    with FolderLock(folder):
        pass


def test_leftovers_of_ended_processes_are_removed(folder):
    owner = replace(Owner.this_process(), pid=ended_process())
    leftover = folder.with_name("shapes.zarr.lock.0123")
    leftover.write_text(json.dumps(asdict(owner)))
    with FolderLock(folder):
        assert not leftover.exists()


def test_a_lock_taken_by_another_while_the_stale_one_is_removed_is_kept(folder):
    stale = replace(Owner.this_process(), pid=ended_process())
    lock = leave_lock(folder, Owner(host="elsewhere", pid=1, started=""))
    late = FolderLock(folder)
    late._own.write_text("{}")
    late._remove_stale(stale)  # judged before the other took it over
    assert json.loads(lock.read_text())["host"] == "elsewhere"


def test_only_one_of_many_gets_the_lock(folder):
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from i2pmae.errors import StoreError\n"
        "from i2pmae.store.lock import FolderLock\n"
        "try:\n"
        "    FolderLock(Path(sys.argv[1])).acquire()\n"
        "except StoreError:\n"
        "    print('refused')\n"
        "else:\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    leave_lock(folder, replace(Owner.this_process(), pid=ended_process()))
    command = [sys.executable, "-c", code, str(folder)]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    try:
        answers = sorted(child.stdout.readline().strip() for child in children)
    finally:
        for child in children:
            child.kill()
            child.wait()
            child.stdout.close()
    assert answers == ["held", "refused", "refused", "refused"]
