"""The job files, run as Slurm would run them, with stand-ins for Slurm's own commands."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from i2pmae.cli.app import whole_command
from i2pmae.commands import COMMANDS

FOLDER = Path(__file__).parents[2] / "pipeline" / "slurm"
JOBS = {
    "extract-2d.sbatch": ["data", "s.zarr"],
    "extract-2d-array.sbatch": ["data", "s.zarr"],
    "pretrain.sbatch": ["s.zarr", "run"],
}
SECONDS = 60

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


def test_every_job_file_is_tested():
    assert {path.name for path in FOLDER.iterdir()} == set(JOBS)


@pytest.mark.parametrize("name", JOBS)
def test_a_job_file_is_bash_and_asks_for_a_requeue(name):
    done = subprocess.run(["bash", "-n", FOLDER / name], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    directives = re.findall(r"^#SBATCH (--\S+)$", (FOLDER / name).read_text(), re.M)
    assert "--requeue" in directives
    assert "--open-mode=append" in directives  # a requeued job must not erase its log
    assert any(re.fullmatch(r"--signal=B:TERM@\d+", text) for text in directives)
    given = [text.partition("=")[0] for text in directives]
    assert len(set(given)) == len(given)


@pytest.fixture
def slurm(tmp_path):
    """Runs a job file; `srun` writes down its command, `scontrol` what it is asked."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for command, text in {
        "srun": 'printf "%s\\n" "$@" > srun.txt; eval "${SRUN_DOES:-true}"',
        "scontrol": 'echo "$@" >> scontrol.txt; echo node7; echo node8',
    }.items():
        path = bin_folder / command
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "70123",
        "SLURM_ARRAY_TASK_ID": "3",
        "SLURM_ARRAY_TASK_COUNT": "16",
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_GPUS_ON_NODE": "4",
        "SLURM_CPUS_PER_TASK": "32",
    }

    def start(name, *options, does="true"):
        return subprocess.Popen(
            ["bash", FOLDER / name, *JOBS[name], *options],
            cwd=tmp_path,
            env={**environment, "SRUN_DOES": does},
            stderr=subprocess.DEVNULL,
        )

    return start


def words(folder, name="srun.txt"):
    return (folder / name).read_text().split("\n")[:-1]


def options_of(command):
    return {option for p in whole_command(COMMANDS[command]).params for option in p.opts}


@pytest.mark.parametrize("name", JOBS)
def test_a_job_runs_a_command_whose_options_exist(slurm, tmp_path, name):
    assert slurm(name, "--batch-size", "32").wait(SECONDS) == 0
    called = words(tmp_path)
    assert called[-2:] == ["--batch-size", "32"]
    command = Path(name).stem.removesuffix("-array")
    given = [word for word in called[called.index(command) :] if word.startswith("--")]
    assert set(given) <= options_of(command)
    if command == "pretrain":
        from torch.distributed.run import get_args_parser

        parsed = get_args_parser().parse_args(called[called.index("torchrun") + 1 :])
        assert (parsed.nnodes, parsed.nproc_per_node, parsed.module) == ("2", "4", True)
        assert parsed.rdzv_endpoint == "node7:30123"
        assert parsed.training_script == "i2pmae"


@pytest.mark.parametrize("name", JOBS)
def test_a_step_gets_all_cores_of_its_job(slurm, tmp_path, name):
    assert slurm(name, does='echo "$SRUN_CPUS_PER_TASK" > cores').wait(SECONDS) == 0
    assert (tmp_path / "cores").read_text() == "32\n"


def test_jobs_of_an_array_write_a_part_each(slurm, tmp_path):
    assert slurm("extract-2d-array.sbatch").wait(SECONDS) == 0
    called = words(tmp_path)
    assert called[called.index("--part") + 1] == "3/16"


def test_pre_training_always_resumes(slurm, tmp_path):
    """What a job sees of its folder may be old, and `--resume` starts where there is no run."""
    assert slurm("pretrain.sbatch").wait(SECONDS) == 0
    assert "--resume" in words(tmp_path)


@pytest.mark.parametrize("name", JOBS)
def test_a_job_that_is_told_to_stop_waits_and_queues_itself(slurm, tmp_path, name):
    does = "trap 'sleep .3; touch saved; exit 143' TERM; touch trapped; sleep 60 & wait"
    process = slurm(name, does=does)
    until = time.monotonic() + SECONDS
    while not (tmp_path / "trapped").exists() and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(SECONDS) == 0
    assert (tmp_path / "saved").exists()
    assert "requeue 70123" in words(tmp_path, "scontrol.txt")


@pytest.mark.parametrize("name", JOBS)
def test_a_job_that_fails_is_not_queued_again(slurm, tmp_path, name):
    process = slurm(name, does="exit 3")
    assert process.wait(SECONDS) == 3
    asked = tmp_path / "scontrol.txt"
    assert not asked.exists() or "requeue" not in asked.read_text()
    bare = subprocess.run(["bash", FOLDER / name], capture_output=True, text=True)
    assert bare.returncode != 0
    assert "usage: sbatch" in bare.stderr
