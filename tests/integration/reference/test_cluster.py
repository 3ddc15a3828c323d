"""The hostfile and the Slurm script start what they say, with batches that the number of GPUs divides."""

import argparse
import os
import shutil
import subprocess

import pytest

from dynfocus_reference.commands import train_arguments
from dynfocus_reference.training.config import CONFIG_FOLDER, load_config

CLUSTER = CONFIG_FOLDER / "cluster"
STUB = '#!/bin/bash\nprintf "%s\\n" "$@"\n'


def parsed(words):
    """The configuration that the words after the module's name ask for."""
    arguments = train_arguments(argparse.ArgumentParser()).parse_args(words)
    return arguments.config, load_config(arguments.config, arguments.changes)


def started(tmp_path, **changes):
    """What the Slurm script hands to torchrun on two machines, one word per line."""
    for name in ("srun", "scontrol"):
        (tmp_path / name).write_text(STUB)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "scontrol").write_text("#!/bin/bash\necho first\necho second\n")
    slurm = {
        "SLURM_JOB_NODELIST": "[first,second]",
        "SLURM_NNODES": "2",
        "SLURM_GPUS_ON_NODE": "8",
        "SLURM_CPUS_PER_TASK": "64",
        "SLURM_JOB_ID": "7",
    }
    given = {"DATA": "/data", "MODEL": "/models/with space", "STAGE1": "/one", "OUTPUT": "/two", **changes}
    environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", **slurm, **given}
    bash = [shutil.which("bash"), str(CLUSTER / "stage2.sbatch")]
    return subprocess.run(bash, env=environment, capture_output=True, text=True)


@pytest.fixture(autouse=True)
def bash():
    if shutil.which("bash") is None:
        pytest.skip("needs bash")


def test_the_slurm_script_starts_stage_2_on_sixteen_gpus(tmp_path):
    subprocess.run(["bash", "-n", str(CLUSTER / "stage2.sbatch")], check=True)
    ran = started(tmp_path)
    assert ran.returncode == 0, ran.stderr
    words = ran.stdout.splitlines()
    assert words[:3] == ["--cpus-per-task", "64", "torchrun"]
    launcher, module = words[3 : words.index("-m")], words[words.index("-m") + 1 :]
    options = dict(zip(launcher[::2], launcher[1::2], strict=True))
    assert options["--rdzv_endpoint"] == "first:29500"
    gpus = int(options["--nnodes"]) * int(options["--nproc_per_node"])
    assert gpus == 16
    assert module[0] == "dynfocus_reference.train"
    name, config = parsed(module[1:])
    assert name == "stage2"
    assert config.accumulation(gpus) * config.batch_size_per_gpu * gpus == 32
    assert (config.model, config.data_root) == ("/models/with space", "/data")
    assert (config.init_from_stage1, config.output) == ("/one", "/two")
    script = (CLUSTER / "stage2.sbatch").read_text()
    assert "#SBATCH --nodes=2\n" in script
    assert "#SBATCH --gpus-per-node=8\n" in script
    assert f"#SBATCH --cpus-per-task={8 * config.workers}\n" in script


@pytest.mark.parametrize("name", ["DATA", "MODEL", "STAGE1", "OUTPUT"])
def test_the_slurm_script_names_what_is_missing(tmp_path, name):
    ended = started(tmp_path, **{name: ""})
    assert ended.returncode != 0
    assert ended.stdout == ""
    assert f"{name}: " in ended.stderr


def test_the_hostfile_has_sixteen_gpus_and_its_commands_fit_them():
    runner = pytest.importorskip("deepspeed.launcher.runner")
    slots = runner.fetch_hostfile(str(CLUSTER / "hostfile"))
    assert slots == {"node1": 8, "node2": 8}
    commands = [
        line[2:].split() for line in (CLUSTER / "hostfile").read_text().splitlines() if line.startswith("# deep")
    ]
    assert len(commands) == 2
    for command, batch in zip(commands, (256, 32), strict=True):
        assert command[:5] == ["deepspeed", "--hostfile", "hostfile", "--module", "dynfocus_reference.train"]
        _, config = parsed(command[5:])
        assert config.accumulation(sum(slots.values())) * config.batch_size_per_gpu * 16 == batch
