"""Clusters of dask that are started for one extraction: processes of this machine, Slurm jobs."""

from __future__ import annotations

import logging
import math
import os
import secrets
import signal
import tomllib
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any

from i2pmae.errors import ConfigError, one_line

_DASHBOARD = "127.0.0.1:8787"
# A terminal sends Ctrl-C to every process; the first one ends the others.
_IGNORE_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"


@contextmanager
def _closed_scheduler() -> Iterator[Any]:
    """A scheduler class whose dashboard has a path that cannot be guessed.

    Whoever may talk to a scheduler can run code in it, and every user of a machine reaches its
    loopback. So clusters that are started here also talk over TLS, with a key made for the run.
    """
    require_package("cryptography", "workers")
    import dask
    from distributed import Scheduler
    from tornado.web import ErrorHandler

    secret = secrets.token_urlsafe(16)

    untyped: Any = Scheduler

    class ClosedScheduler(untyped):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **{"http_prefix": secret, **named})

        def start_http_server(self, *arguments: Any, **named: Any) -> None:
            super().start_http_server(*arguments, **named)
            application = self.http_application
            find = application.find_handler

            def find_handler(request: Any, **options: Any) -> Any:
                if request.path.startswith(f"/{secret}/"):
                    return find(request, **options)
                # also for /, which would be redirected to the secret path
                return application.get_handler_delegate(request, ErrorHandler, {"status_code": 404})

            application.find_handler = find_handler

    link = f"{{scheme}}://{{host}}:{{port}}/{secret}/status"
    with dask.config.set({"distributed.dashboard.link": link}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*Port 8787 is already in use", UserWarning)
        yield ClosedScheduler


@contextmanager
def _process_as_before() -> Iterator[None]:
    """Take back what dask does to the whole process.

    Each worker that it starts leaves its variables, such as the number of threads, in this
    process as well, and programs started later inherit them. Importing dask-jobqueue makes Ctrl-C
    exit with 0 and no message.
    """
    variables, handler = dict(os.environ), signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) != handler:
            signal.signal(signal.SIGINT, handler)
        for name in os.environ.keys() - variables.keys():
            del os.environ[name]
        os.environ.update(variables)


@contextmanager
def local_cluster(n_workers: int, threads: int | None) -> Iterator[Any]:
    """Processes of this machine, which share its cores and memory."""
    import dask
    from dask.system import CPU_COUNT
    from distributed import Nanny, SpecCluster
    from distributed.security import Security
    from distributed.system import MEMORY_LIMIT

    threads = threads or max(1, CPU_COUNT // n_workers)
    libraries = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = {f"distributed.nanny.pre-spawn-environ.{name}": threads for name in libraries}
    with (
        _process_as_before(),
        _closed_scheduler() as closed_scheduler,
        dask.config.set(environment),
    ):
        common = {
            "host": "127.0.0.1",
            "protocol": "tls://",
            "security": Security.temporary(),
        }
        worker = {
            "nthreads": threads,
            "memory_limit": MEMORY_LIMIT // n_workers,
            "preload": [*dask.config.get("distributed.worker.preload"), _IGNORE_CTRL_C],
            "silence_logs": logging.CRITICAL,
            **common,
        }
        with SpecCluster(
            scheduler={
                "cls": closed_scheduler,
                "options": {"port": 0, "dashboard_address": _DASHBOARD, **common},
            },
            workers={number: {"cls": Nanny, "options": worker} for number in range(n_workers)},
            security=common["security"],
        ) as cluster:
            yield cluster


@contextmanager
def slurm_cluster(file: Path, n_workers: int | None) -> Iterator[Any]:
    """Jobs of a Slurm cluster; the file holds the arguments of dask-jobqueue's SLURMCluster."""
    require_package("dask_jobqueue", "slurm")
    with _process_as_before():
        from dask_jobqueue.slurm import SLURMCluster
    from distributed import Status

    try:
        settings = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--slurm {file}: cannot be read as TOML ({error})") from error
    wanted = settings.pop("n_workers", None)
    n_workers = wanted if n_workers is None else n_workers
    if not isinstance(n_workers, int) or n_workers < 1:
        raise ConfigError(f"--slurm {file}: say how many with --workers N, or n_workers in it")
    # jobs find the keys of this run where it was started, which they must see anyway
    settings = {"security": True, "shared_temp_directory": str(Path.cwd()), **settings}
    with _closed_scheduler() as closed_scheduler, ExitStack() as stack:
        cluster = SLURMCluster.__new__(SLURMCluster)
        stack.callback(_close_keys, cluster)
        try:
            SLURMCluster.__init__(cluster, scheduler_cls=closed_scheduler, **settings)
        except (TypeError, ValueError, RuntimeError, OSError) as error:
            cluster.status = Status.closed  # nothing runs yet, but it would complain
            raise ConfigError(
                f"--slurm {file}: SLURMCluster rejects it ({error}); its arguments are "
                "listed at https://jobqueue.dask.org"
            ) from error
        stack.enter_context(cluster)
        _submit(cluster, n_workers)
        yield cluster


def _submit(cluster: Any, n_workers: int) -> None:
    """Queue the jobs of so many workers.

    `cluster.scale` only logs that a job is refused, and workers would be waited for without end.
    """
    from distributed import Status

    if which("sbatch") is None:
        raise ConfigError(
            "--slurm: there is no sbatch on this machine. Start the command where jobs of the "
            "cluster are submitted, or leave out --slurm."
        )
    n_jobs = math.ceil(n_workers / cluster._dummy_job.worker_processes)
    while len(cluster.worker_spec) < n_jobs:
        cluster.worker_spec.update(cluster.new_worker_spec())
    try:
        cluster.sync(cluster._correct_state)
    except (OSError, RuntimeError, ValueError) as error:
        for job in cluster._created:
            if job.status == Status.created:
                job.status = Status.failed  # else the cluster would not close
        said = str(error).partition("stderr:")[2] or str(error)
        raise ConfigError(
            f"--slurm: sbatch refuses the job: {one_line(said)}. Change the settings that it names."
        ) from error


def _close_keys(cluster: Any) -> None:
    """Remove the files of a run's keys, which dask-jobqueue leaves to the garbage collector."""
    for name in ("_job_key", "_job_cert", "_job_ca_file"):
        if name in vars(cluster):
            vars(cluster)[name].close()


def require_package(module: str, extra: str) -> None:
    """Raise ConfigError, naming what to install, where a package of an extra is missing."""
    if find_spec(module) is None:
        raise ConfigError(
            f"this needs the package {module}: pip install 'i2pmae[{extra}]', or leave out "
            "--workers, --scheduler and --slurm"
        )
