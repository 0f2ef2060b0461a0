"""Several processes training one model do what one process with the whole batch does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import LANES, TINY, randomized

from vtok_codec.models.onevae import OneVAE
from vtok_codec.models.weights import dump_weights
from vtok_codec.training.checkpoint import read_checkpoint
from vtok_codec.training.processes import Processes
from vtok_codec.training.trainer import LOG

WORKER = Path(__file__).parent / "train_together.py"


STAGES = ("rate", "decoder", "diffusion", "onedva-lengths")


def train(processes: int, data: Path, folder: Path, batch: int) -> Path:
    """Train all stages, one after another, in one start of Python for each process."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = launcher if processes > 1 else [sys.executable]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(WORKER.parent.parent)}
    done = subprocess.run(
        [*command, str(WORKER), str(data), str(folder), str(batch), ",".join(STAGES)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders of the runs of one process, and of two with half the batch each."""
    folder = tmp_path_factory.mktemp("together")
    data = folder / "data"
    data.mkdir()
    (data / "lanes.mp4").symlink_to(LANES)
    (data / "codec.safetensors").write_bytes(dump_weights(randomized(OneVAE(TINY)), TINY, {}))
    return train(1, data, folder / "alone", 4), train(2, data, folder / "together", 2)


@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_train_as_one_with_twice_the_batch(runs: tuple[Path, Path], stage: str) -> None:
    alone, together = ([json.loads(line) for line in (run / stage / LOG).read_text().splitlines()] for run in runs)
    assert [line["step"] for line in together] == [1, 2, 3, 4, 5, 6]
    for one, two in zip(alone, together, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-3)
        error = {"diffusion": "error", "onedva-lengths": "latent"}.get(stage, "rmse")
        assert two[error] == pytest.approx(one[error], rel=0.01)
    weights = [read_checkpoint(run / stage)["model"] for run in runs]
    for name, value in weights[0].items():
        # In six steps a weight moves by about 1e-3; gradients that are not averaged show.
        assert torch.allclose(value, weights[1][name], rtol=1e-4, atol=1e-4), name


def test_shares_make_up_the_whole() -> None:
    drawn = torch.arange(6)
    shares = [Processes(rank, 3).share(drawn) for rank in range(3)]
    assert np.array_equal(torch.cat(shares), drawn) and all(len(share) == 2 for share in shares)
    assert Processes(0, 1).leads and not Processes(1, 2).leads
