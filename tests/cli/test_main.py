import json
import signal
import subprocess
import sys
import time

import pytest

from i2pmae import progress
from i2pmae.cli import app, main
from i2pmae.commands import COMMANDS
from i2pmae.errors import ConfigError
from i2pmae.interrupts import remember_saved


def run(monkeypatch, capsys, *arguments) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["i2pmae", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        main()
    captured = capsys.readouterr()
    return exit_.value.code, captured.out, captured.err


def test_every_command_has_help_with_an_example(monkeypatch, capsys):
    assert [command.name for command in app.registered_commands] == [*COMMANDS, None]
    for command in [*COMMANDS, "recipes"]:
        code, out, _ = run(monkeypatch, capsys, command, "--help")
        assert code == 0
        assert f"Example: i2pmae {command}" in " ".join(out.split())


def test_help_imports_no_heavy_library():
    code = (
        "import sys; sys.argv = ['i2pmae', '--help']\n"
        "from i2pmae.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'zarr', 'numpy', 'pydantic', 'sklearn', 'timm'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, i2pmae; sys.exit(str({'torch', 'numpy', 'pydantic'} & set(sys.modules) or 0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() in ("", "0")


def test_without_a_command_the_three_steps_are_shown(monkeypatch, capsys):
    code, out, err = run(monkeypatch, capsys)
    assert (code, err) == (0, "")
    for command in ("extract-2d", "pretrain", "finetune", "demo", "doctor"):
        assert f"i2pmae {command}" in out
    assert max(map(len, out.splitlines())) <= 92


def test_version(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "--version")
    assert (code, out.split()[0]) == (0, "i2pmae")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["pretrian"], "No such command 'pretrian'. Did you mean 'pretrain'?"),
        (["pretrain", "--epoch", "3"], "--epochs"),
        (["pretrain", "--epochs", "x"], "Invalid value for '--epochs'"),
        (
            ["pretrain", "--device", "tpu"],
            "value for '--device': 'tpu' is not one of 'auto', ",
        ),
        (["pretrain", "--track", "paper"], "'paper' is not one of 'tensorboard', 'wandb'"),
        (["extract-2d"], "Missing argument 'DATA'"),
        (["svm", "last.pt"], "Missing argument 'DATA'"),
    ],
)
def test_wrong_usage_is_one_line_that_names_the_help(monkeypatch, capsys, arguments, expected):
    code, out, err = run(monkeypatch, capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("i2pmae: ")
    assert err.count("\n") == 1
    assert expected in err
    command = " ".join(["i2pmae", *(word for word in arguments[:1] if word != "pretrian")])
    assert err.endswith(f" See '{command} --help'\n")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("extract-2d", "/no/such/folder"), "/no/such/folder"),
        (("extract-2d", "procedual"), "Did you mean procedural?"),
        (("doctor", "--recipe", "pretrian"), "did you mean 'pretrain'?"),
        (("report", "/no/such/run"), "no run and no store at /no/such/run"),
        (("show", "/no/such.zarr"), "no store at /no/such.zarr"),
        (("pretrain", "--cache", "/no/such/cache.zarr"), "no store at /no/such/cache.zarr"),
        (("pretrain", "--recipe", "nothing"), "recipe nothing"),
        (("pretrain", "--set", "epochs=-1"), "epochs"),
        (("pretrain", "--set", "device=tpu"), "device"),
        (("finetune", "last.pt"), "CHECKPOINT and DATA"),
        (("finetune", "--from-scratch"), "give labeled shapes"),
        (("pretrain", "--epochs", "0"), "epochs"),
        (("svm", "/no/such.pt", "/no/such/folder"), "/no/such"),
        (("finetune", "/no/such.pt", "/no/such/folder"), "/no/such"),
        (("fewshot-split", "/no/such/folder"), "/no/such/folder does not exist"),
        (("fewshot-split", "procedural", "--ways", "5,x"), "ways"),
        (("compare", "/no/such/run"), "/no/such/run"),
        (("inspect", "/no/such.zarr"), "no store at /no/such.zarr"),
        (("verify", "/no/such.zarr"), "no store at /no/such.zarr"),
        (("convert", "/no/such.pth", "/tmp/out.pt"), "no checkpoint at /no/such.pth"),
        (("pretrain", "--cache", "file://data/a.zarr"), "comes a path from the root"),
        (("check-data", "/no/such\udcff"), "'/no/such\\udcff': its name is not in UTF-8"),
    ],
)
def test_user_errors_are_one_line_and_exit_with_1(
    monkeypatch, capsys, tmp_path, arguments, expected
):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(monkeypatch, capsys, *arguments)
    assert code == 1
    assert out == ""
    assert err.startswith("i2pmae: ")
    assert err.count("\n") == 1
    assert expected in err
    assert list(tmp_path.iterdir()) == []


def test_recipes_are_one_name_per_line_when_piped(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "recipes")
    assert code == 0
    assert {"pretrain", "official", "finetune-scanobjectnn-pb-t50-rs"} <= set(out.split("\n"))


def test_a_recipe_is_printed_as_it_is(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "recipes", "pretrain")
    assert code == 0
    assert out.startswith("# Stage two")


def test_ctrl_c_exits_with_130(monkeypatch, capsys):
    def interrupt(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("i2pmae.recipes.recipe_names", interrupt)
    code, _, err = run(monkeypatch, capsys, "recipes")
    assert code == 130
    assert err == "i2pmae: stopped; nothing is half-written; run the same command again\n"


def test_a_stopped_run_says_what_is_saved_and_how_to_go_on(monkeypatch, capsys):
    def interrupt(*_arguments, **_options):
        remember_saved(lambda: "runs/a b/last.pt is saved")
        raise KeyboardInterrupt

    monkeypatch.setattr("i2pmae.arguments.load_config", interrupt)
    code, _, err = run(monkeypatch, capsys, "pretrain", "--out", "runs/a b")
    assert code == 130
    assert err == (
        "i2pmae: stopped; runs/a b/last.pt is saved; "
        "to resume: i2pmae pretrain --out 'runs/a b' --resume\n"
    )
    _, _, err = run(monkeypatch, capsys, "pretrain", "--resume")
    assert err.count("--resume") == 1
    _, _, err = run(monkeypatch, capsys, "extract-2d", "shapes")
    assert err.endswith("to resume: i2pmae extract-2d shapes\n")


def test_a_crashed_run_says_so_below_its_traceback():
    code = (
        "import sys; sys.argv = ['i2pmae', 'pretrain']\n"
        "import i2pmae.recipes\n"
        "from i2pmae.cli import main\n"
        "from i2pmae.interrupts import remember_saved\n"
        "def crash(*a, **k):\n"
        "    remember_saved(lambda: 'last.pt is saved')\n"
        "    raise ZeroDivisionError\n"
        "i2pmae.recipes.load_config = crash\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    last = done.stderr.splitlines()[-1]
    assert "last.pt is saved; to resume: i2pmae pretrain --resume" in last


def test_a_process_that_uses_the_package_says_nothing_when_it_ends():
    """Also after a command of its own that failed; what one run has saved is none of the next's."""
    code = (
        "import sys; sys.argv = ['i2pmae', 'recipes']\n"
        "import i2pmae.recipes\n"
        "from i2pmae.cli import main\n"
        "from i2pmae.interrupts import remember_saved\n"
        "remember_saved(lambda: 'a run of the library')\n"
        "def fail(error):\n"
        "    def crash(*a, **k):\n"
        "        if error is ZeroDivisionError: remember_saved(lambda: 'last.pt is saved')\n"
        "        raise error\n"
        "    i2pmae.recipes.recipe_names = crash\n"
        "    try: main()\n"
        "    except error as found: return getattr(found, '__notes__', [])\n"
        "assert fail(KeyError) == []\n"
        "assert 'last.pt is saved' in fail(ZeroDivisionError)[0]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_quiet_and_the_log_are_set_before_a_command_runs(monkeypatch, capsys, tmp_path):
    def say(*_arguments, **_options):
        progress.note("hello")
        raise ConfigError("enough")

    monkeypatch.setattr("i2pmae.arguments.load_config", say)
    log = tmp_path / "log.jsonl"
    _, out, err = run(monkeypatch, capsys, "pretrain", "--quiet", "--json", "--log-json", log)
    assert (out, err) == ("", "i2pmae: enough\n")
    events = map(json.loads, log.read_text().splitlines())
    assert [event["message"] for event in events] == ["hello", "enough"]


def test_bugs_keep_their_traceback(monkeypatch):
    def bug(*_arguments, **_options):
        raise ZeroDivisionError

    monkeypatch.setattr("i2pmae.recipes.recipe_names", bug)
    monkeypatch.setattr(sys, "argv", ["i2pmae", "recipes"])
    with pytest.raises(ZeroDivisionError):
        main()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("can't start new thread"), "the system allows no more threads (ulimit -u)"),
        (MemoryError(), "memory is used up"),
        (OSError(12, "Cannot allocate memory"), "memory is used up"),
        (
            ImportError("libtorch_cpu.so: failed to map segment from shared object"),
            "memory is used",
        ),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
            "memory is used up",
        ),
    ],
)
def test_too_little_of_the_machine_is_one_line(monkeypatch, capsys, error, expected):
    def refused(*_arguments, **_options):
        raise error

    monkeypatch.setattr("i2pmae.recipes.recipe_names", refused)
    code, _, err = run(monkeypatch, capsys, "recipes")
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith(f"i2pmae: {expected}")


def test_a_file_that_may_not_be_looked_at_is_one_line(monkeypatch, capsys):
    def refused(*_arguments, **_options):
        raise PermissionError(13, "Permission denied", "/root/secret")

    monkeypatch.setattr("i2pmae.recipes.recipe_names", refused)
    code, _, err = run(monkeypatch, capsys, "recipes")
    assert code == 1
    assert err == "i2pmae: /root/secret: Permission denied; check its permissions\n"


def test_json_output_is_one_object(monkeypatch, capsys):
    monkeypatch.setattr("i2pmae.stages.inspect.run", lambda *_, **__: {"complete": True})
    code, out, _ = run(monkeypatch, capsys, "inspect", "x.zarr", "--json")
    assert code == 0
    assert json.loads(out) == {"complete": True}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_process_whose_threads_never_end_is_ended_by_a_signal(number):
    code = (
        "import sys, threading\n"
        "from i2pmae.cli import main\n"
        "def spin():\n"
        "    while True: pass\n"
        "threading.Thread(target=spin).start()\n"  # as libraries' do where memory is short
        "sys.argv = ['i2pmae', 'check-data', 'nowhere']\n"
        "main()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) as process:
        try:
            assert b"nowhere does not exist" in process.stderr.readline()
            end = time.monotonic() + 60
            while process.poll() is None and time.monotonic() < end:
                process.send_signal(number)  # its main thread has to come to listening first
                time.sleep(0.1)
            assert process.returncode == -number
        finally:
            process.kill()
