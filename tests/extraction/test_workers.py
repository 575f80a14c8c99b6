import logging
import os
import re
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from urllib.error import HTTPError
from urllib.request import urlopen

import dask
import pytest
import torch
from distributed import Client, LocalCluster
from distributed.security import Security
from distributed.utils import get_mp_context
from pydantic import ValidationError

from i2pmae.config import StoreConfig, WorkersConfig
from i2pmae.errors import ConfigError, DataError, StoreError, WorkersError
from i2pmae.extraction import clusters, workers
from i2pmae.extraction.clusters import local_cluster
from i2pmae.extraction.encoding import Encoder
from i2pmae.extraction.loading import open_data
from i2pmae.image_model import ImageModelInfo
from i2pmae.stages import extract_2d
from i2pmae.store import open_cache
from i2pmae.store.schema import StoreSpec
from i2pmae.store.writer import StoreWriter, join_writer

from ..conftest import extract_config
from ..stages.test_extract_2d import digests

pytestmark = pytest.mark.timeout(300)

# What workers run first. A file says how things go wrong: shapes that end the process that loads
# them, always or once, or use up its memory; an error that cannot be sent; memory that is short
# when a shard is written; a data set that differs from the caller's.
PRELOAD = """
import os, signal, threading
from pathlib import Path
from i2pmae.datasets.source import ShapeSource
from i2pmae.store.writer import StoreWriter

def load_or_die(self, index):
    for line in Path({file!r}).read_text().splitlines():
        what, name = line.split(maxsplit=1)
        if name != self.ids[index]:
            continue
        if what == "memory":
            raise MemoryError
        if what == "bug":
            raise RuntimeError(threading.Lock())
        if what == "once":
            Path({file!r}).write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    return load(self, index)

def write_or_fail(self, k, values):
    if "short when writing" in Path({file!r}).read_text():
        raise MemoryError
    write(self, k, values)

def other_fingerprint(self):
    return "other" if "other shapes" in Path({file!r}).read_text() else fingerprint(self)

# dask may run this twice, and in this process where a cluster is of threads.
if not hasattr(ShapeSource, "original") and os.getpid() != {pid}:
    ShapeSource.original = (
        ShapeSource.load_with_original, ShapeSource.fingerprint, StoreWriter.write_shard
    )
    ShapeSource.load_with_original = load_or_die
    ShapeSource.fingerprint = other_fingerprint
    StoreWriter.write_shard = write_or_fail
    load, fingerprint, write = ShapeSource.original
"""
SMALL = StoreConfig(shard_size=2)


@pytest.fixture(scope="module")
def poison_file(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("poison") / "shapes.txt"


@pytest.fixture(scope="module")
def preload(poison_file):
    """Settings of clusters: a worker is forked from a process that has imported what it needs."""
    file = poison_file.with_name("preload.py")
    file.write_text(PRELOAD.format(file=str(poison_file), pid=os.getpid()))
    poison_file.write_text("")
    settings = {
        "distributed.worker.preload": [str(file)],
        "distributed.worker.multiprocessing-method": "forkserver",
        "distributed.scheduler.allowed-failures": 0,
        "distributed.nanny.pre-spawn-environ": {},  # would be left in this process as well
    }
    with dask.config.set(settings):
        context = get_mp_context()  # which has modules of dask imported first
        context.set_forkserver_preload(["distributed", "i2pmae.extraction.workers", "timm"])
        yield


@pytest.fixture(scope="module")
def scheduler(preload):  # noqa: ARG001
    """Address of a cluster that is there already: two workers of one thread."""
    with LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def poison(poison_file):
    yield lambda *lines: poison_file.write_text("\n".join(lines))
    poison_file.write_text("")


@pytest.fixture(scope="session")
def ids() -> list[str]:
    return open_data(extract_config(Path("unused.zarr"))).ids


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A store written by this process, with as many threads as the workers have."""
    path = tmp_path_factory.mktemp("alone") / "tiny.zarr"
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    extract_2d.run(extract_config(path, limit=6, store=SMALL))
    torch.set_num_threads(n_threads)
    return path


def shared(path, scheduler, **changes):
    return extract_config(
        path,
        **{"limit": 6, "store": SMALL, "workers": WorkersConfig(scheduler=scheduler), **changes},
    )


def greets(address, context):
    """Whether a dask server begins to talk."""
    host, port = address.partition("://")[2].split(":")
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        plain if context is None else context.wrap_socket(plain) as connection,
    ):
        connection.sendall(b"\0" * 8)
        return bool(connection.recv(1))


def test_nobody_else_reaches_the_workers():
    """Whoever may talk to a scheduler can run code in it."""
    with local_cluster(1, 1) as cluster, Client(cluster) as client:
        ours, theirs = (
            security.get_connection_args("client")["ssl_context"]
            for security in (cluster.security, Security.temporary())
        )
        theirs.verify_mode = ssl.CERT_NONE
        for address in (cluster.scheduler_address, *client.nthreads()):
            assert greets(address, ours)
            for context in (theirs, None):
                with suppress(OSError):
                    assert not greets(address, context)
        link = client.dashboard_link
        with urlopen(link) as page:
            assert page.status == 200
        root = re.match("http://[^/]+/", link)[0]
        assert len(link) > len(root) + 20
        for path in ("", "status", "info/main/workers.html", "sitemap.json", "json/counts.json"):
            with pytest.raises(HTTPError, match="404") as refused:
                urlopen(root + path)
            refused.value.close()


def lose_a_heartbeat():
    try:
        raise OSError("the stream is closed")
    except OSError:
        logging.getLogger("distributed.worker").exception("no heartbeat")


def test_a_heartbeat_lost_as_a_job_ends_is_no_traceback(capfd):
    with local_cluster(1, 1) as cluster, Client(cluster) as client:
        client.run(lose_a_heartbeat)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.usefixtures("preload")
def test_workers_write_the_same_bytes_and_one_may_be_killed(alone, tmp_path, poison, ids, capfd):
    poison(f"once {ids[3]}")
    path = tmp_path / "tiny.zarr"
    local = WorkersConfig(count=2, threads=1)
    result = extract_2d.run(extract_config(path, limit=6, store=SMALL, workers=local))
    assert (result["shapes"], result["skipped"]) == (6, 0)
    assert digests(path) == digests(alone)
    said = capfd.readouterr().err
    assert "dask dashboard: http://127.0.0.1:" in said
    assert "was lost; its work is repeated" in said
    assert re.search(r"extract-2d 6/6: .* workers, waiting [\d.]+%", said)


@pytest.mark.slow
def test_the_workers_of_a_running_scheduler_continue_a_store(
    alone, tmp_path, scheduler, interrupted, monkeypatch
):
    path = tmp_path / "tiny.zarr"
    with interrupted(StoreWriter, "write_shard", lambda k: k == 2):
        extract_2d.run(extract_config(path, limit=6, store=SMALL))
    monkeypatch.chdir(tmp_path)
    extract_2d.run(shared(Path("tiny.zarr"), scheduler))
    assert digests(path).keys() == digests(alone).keys()
    assert open_cache(path).info.complete


@pytest.mark.slow
def test_a_shape_that_ends_its_workers_is_named_and_skipped(
    tmp_path, scheduler, poison, ids, capfd
):
    poison(f"kill {ids[1]}")
    path = tmp_path / "tiny.zarr"
    one_each = StoreConfig(shard_size=1)
    result = extract_2d.run(shared(path, scheduler, limit=3, store=one_each, on_error="skip"))
    assert result["skipped"] == 1
    assert list(open_cache(path)["status"].compute()) == [1, 2, 1]
    assert f"skipped {ids[1]}: {ids[1]} ends every worker" in capfd.readouterr().err


def test_what_shares_a_worker_with_such_a_shape_is_not_blamed(monkeypatch):
    """dask suspects all that a lost worker was to do."""

    def each(_executor, task, pieces):
        pieces = list(pieces)
        poisoned = any(3 in piece for piece in pieces)
        for piece in pieces:
            lost = 3 in piece or (poisoned and (2 in piece or 4 in piece))
            yield piece, None if lost else task(piece)

    monkeypatch.setattr(workers.DaskExecutor, "_each", each)
    executor = object.__new__(workers.DaskExecutor)
    found = list(executor._narrowed(len, [range(4), range(4, 8)]))
    assert [piece for piece, size in found if size is None] == [range(3, 4)]
    assert sum(len(piece) for piece, _ in found) == 8


def test_a_shape_that_ends_its_workers_stops_the_job_and_is_skipped_on_demand(
    tmp_path, scheduler, poison, ids
):
    path = tmp_path / "tiny.zarr"
    poison(f"memory {ids[2]}")
    with pytest.raises(DataError, match=rf"{ids[2]} ends every worker.*--on-error skip"):
        extract_2d.run(shared(path, scheduler))
    assert extract_2d.run(shared(path, scheduler, on_error="skip"))["skipped"] == 1
    assert list(open_cache(path)["status"].compute()) == [1, 1, 2, 1, 1, 1]


def test_a_shard_without_a_culprit_ends_the_job(tmp_path, scheduler, poison):
    poison("memory is short when writing")
    with pytest.raises(WorkersError, match="none of its shapes does so alone"):
        extract_2d.run(shared(tmp_path / "tiny.zarr", scheduler, limit=2))


def test_errors_of_workers_are_the_users(tmp_path, scheduler):
    folder = tmp_path / "clouds"
    folder.mkdir()
    (folder / "0.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match=r"0\.npy"):
        extract_2d.run(shared(tmp_path / "x.zarr", scheduler, data=folder, split="all"))


def test_a_bug_on_a_worker_keeps_its_traceback(tmp_path, scheduler, poison, ids):
    """Also one that cannot be sent, for which a plain dask task would be waited for forever."""
    poison(f"bug {ids[0]}")
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*load_or_die.*lock object"):
        extract_2d.run(shared(tmp_path / "x.zarr", scheduler))


@pytest.mark.parametrize(
    ("end", "expected"), [("scale", "all workers are gone"), ("close", "the scheduler is gone")]
)
def test_a_cluster_that_goes_away_ends_the_job(tmp_path, monkeypatch, end, expected):
    monkeypatch.setattr(workers, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(workers, "_LOOKS", 3)
    under_way, is_over = threading.Event(), threading.Event()

    def stand_still(*_, **_named):
        under_way.set()
        is_over.wait(60)

    monkeypatch.setattr(workers, "write_shards", stand_still)
    cluster = LocalCluster(
        n_workers=1,
        threads_per_worker=torch.get_num_threads(),  # which it sets for all threads to come
        processes=False,
        dashboard_address="127.0.0.1:0",
        silence_logs=50,
    )

    def go_away():
        under_way.wait(60)
        cluster.scale(0) if end == "scale" else cluster.close()

    thread = threading.Thread(target=go_away)
    thread.start()
    with cluster:
        try:
            with pytest.raises(WorkersError, match=expected):
                extract_2d.run(shared(tmp_path / "x.zarr", cluster.scheduler_address))
        finally:
            is_over.set()
            thread.join()


@pytest.fixture
def as_worker(monkeypatch):
    """Stand in for a worker of three threads whose image model is as this one says."""
    model = ImageModelInfo(
        "tiny", "random", "abc", 64, (4, 4), 8, (0.0,), (1.0,), "activation", None, "float32", "cpu"
    )
    state = SimpleNamespace(nthreads=3)
    monkeypatch.setattr("distributed.get_worker", lambda: SimpleNamespace(state=state))
    network, axes = SimpleNamespace(info=model), torch.eye(3)[None]
    encoder = Encoder(network, axes, "sum", 64, False, "int8", 0.1)
    monkeypatch.setattr(workers, "_encoder", lambda _: encoder)
    n_threads = torch.get_num_threads()
    yield model
    torch.set_num_threads(n_threads)


def test_a_worker_with_another_image_model_is_refused(as_worker):
    config = extract_config(Path("unused.zarr"))
    assert workers._checked(config, as_worker).image_model.info == as_worker
    assert torch.get_num_threads() == 3
    with pytest.raises(ConfigError, match=r"float32.*bfloat16.*Give --precision"):
        workers._checked(config, replace(as_worker, precision="bfloat16"))


def test_workers_have_a_gpu_of_their_own(monkeypatch):
    monkeypatch.setattr(workers, "pick_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    found = [workers._own_device("cuda", name).index for name in ("0", "3", "job-17-6", "tcp:a")]
    assert found == [0, 3, 2, 0]
    assert workers._own_device("cpu", "3") == torch.device("cpu")


def test_workers_elsewhere_are_told_whole_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shapes").mkdir()
    (tmp_path / "weights.pth").write_bytes(b"")
    config = extract_config(Path("tiny.zarr"), data=Path("shapes"))
    weights = config.image_model.model_copy(update={"pretrained": "weights.pth"})
    found = workers._absolute(config.model_copy(update={"image_model": weights}))
    assert found.data == tmp_path / "shapes"
    assert found.image_model.pretrained == str(tmp_path / "weights.pth")
    named = extract_config(Path("tiny.zarr"))
    assert workers._absolute(named) == named  # no files: `procedural`, random weights
    assert workers._absolute_store("tiny.zarr") == str(tmp_path / "tiny.zarr")
    assert workers._absolute_store("s3://bucket/tiny.zarr") == "s3://bucket/tiny.zarr"


def test_a_job_that_has_lost_its_lock_ends(monkeypatch):
    """What workers write in its name could be another's by now."""

    def lost():
        raise StoreError("was taken over by another process")

    writer = SimpleNamespace(
        spec=StoreSpec(4, 8, 1, 4, (1, 1), 1, shard_size=2),
        pending=[0, 1],
        n_pending=4,
        path="tiny.zarr",
        reopen=lambda: None,
        require_lock=lost,
    )
    monkeypatch.setattr(
        workers.DaskExecutor, "_each", lambda _executor, _task, items: ((i, {}) for i in items)
    )
    executor = object.__new__(workers.DaskExecutor)
    executor._job, executor._source = workers._Job(None, "", None), None
    with pytest.raises(StoreError, match="taken over"):
        executor.extract(writer)


def test_workers_that_see_other_shapes_are_refused(tmp_path, scheduler, poison):
    poison("the other shapes")
    with pytest.raises(DataError, match="holds other shapes"):
        extract_2d.run(shared(tmp_path / "x.zarr", scheduler, limit=5))  # not opened before


def test_a_scheduler_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "_CONNECT_SECONDS", 0.2)
    with pytest.raises(ConfigError, match=r"no answer.*dask scheduler"):
        extract_2d.run(shared(tmp_path / "x.zarr", "tcp://127.0.0.1:9"))


SBATCH = """#!/bin/sh
# what a Slurm cluster would do with a job file: run it somewhere, say its number
script="$1"
while [ ! -f "$script" ]; do shift; script="$1"; done
cp "$script" {folder}/job.sh
setsid sh {folder}/job.sh > {folder}/job.log 2>&1 &
echo $! > {folder}/job.pid
echo "Submitted batch job $!"
"""


@pytest.mark.slow
def test_slurm_jobs(alone, tmp_path, monkeypatch):
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("scancel", "#!/bin/sh\nkill -- -$1\n")):
        script = folder / name
        script.write_text(text.format(folder=folder))
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    settings = folder / "slurm.toml"
    settings.write_text(
        f'cores = 1\nprocesses = 1\nmemory = "4GB"\ninterface = "lo"\n'
        f'python = "{sys.executable}"\nworker_extra_args = ["--no-dashboard"]\n'
        'scheduler_options = {dashboard_address = "127.0.0.1:0"}\n'
    )
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    path = tmp_path / "tiny.zarr"
    jobs = WorkersConfig(slurm=settings, count=1)
    extract_2d.run(extract_config(path, limit=6, store=SMALL, workers=jobs))
    assert digests(path) == digests(alone)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cores = ", "TOML"),
        ('cores = 1\nmemory = "1GB"', "--workers N"),
        ("n_workers = 1", "cores"),
    ],
)
def test_a_slurm_file_that_cannot_be_used(tmp_path, text, expected):
    file = tmp_path / "slurm.toml"
    file.write_text(text)
    jobs = WorkersConfig(slurm=file)
    with pytest.raises(ConfigError, match=expected):
        extract_2d.run(extract_config(tmp_path / "x.zarr", workers=jobs))


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (None, "there is no sbatch on this machine"),
        (
            "#!/bin/sh\necho 'sbatch: error: invalid partition specified: gpu' >&2\nexit 1\n",
            r"refuses the job: sbatch: error: invalid partition specified: gpu\. Change",
        ),
        ("#!/bin/sh\necho queued\n", "refuses the job: Could not parse job id"),
    ],
)
def test_a_job_that_cannot_be_submitted_ends_the_command_at_once(
    tmp_path, monkeypatch, script, expected
):
    settings = tmp_path / "slurm.toml"
    settings.write_text(
        'cores = 1\nprocesses = 1\nmemory = "4GB"\ninterface = "lo"\nn_workers = 2\n'
        'scheduler_options = {dashboard_address = "127.0.0.1:0"}\n'
    )
    if script is not None:
        (tmp_path / "sbatch").write_text(script)
        (tmp_path / "sbatch").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(ConfigError, match=expected):
        extract_2d.run(extract_config(tmp_path / "x.zarr", workers=WorkersConfig(slurm=settings)))
    assert not (tmp_path / "x.zarr").exists()


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(clusters, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'i2pmae\[workers\]'"):
        extract_2d.run(extract_config(tmp_path / "x.zarr", workers=WorkersConfig(count=1)))


def test_a_scheduler_has_its_own_workers():
    with pytest.raises(ValidationError, match="workers of its own"):
        WorkersConfig(count=2, scheduler="tcp://127.0.0.1:8786")


@pytest.mark.slow
def test_one_process_needs_no_dask(tmp_path):
    code = (
        "import sys\n"
        "sys.argv = ['i2pmae', 'extract-2d', 'procedural', '--limit', '2', '--points', '64',\n"
        "    '--image-model', 'timm:test_vit', '--pretrained', 'random', '--cache', sys.argv[1]]\n"
        "from i2pmae.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "sys.exit(str({'dask', 'distributed'} & set(sys.modules) or 0))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "x.zarr"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.splitlines()[-1] == "0", done.stderr


def test_halves():
    assert workers._halves(range(4, 9)) == [range(4, 7), range(7, 9)]
    assert workers._halves(range(4, 5)) == [range(4, 5)]


def test_files_that_a_worker_did_not_write_are_noticed(alone, tmp_path):
    path = Path(shutil.copytree(alone, tmp_path / "tiny.zarr"))
    writer = join_writer(path)
    assert writer.pending == []
    (path / "features" / "c" / "1" / "0" / "0" / "0" / "0").unlink()
    writer.refresh()
    assert writer.pending == [1]
    with pytest.raises(StoreError, match="lacks 1 of 3 shards"):
        writer.finish()
