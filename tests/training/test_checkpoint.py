"""Checkpoints: damage is noticed, the one before is kept, and nothing that is not finite is written."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from vtok_codec.errors import TrainingError
from vtok_codec.training import checkpoint
from vtok_codec.training.checkpoint import CHECKPOINT, PREVIOUS, has_checkpoint, read_checkpoint, write_checkpoint


def state(step: int) -> dict[str, object]:
    return {"step": step, "model": {"weight": torch.full((3,), float(step))}, "optimizer": [torch.zeros(2)]}


def test_the_newest_is_read(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        write_checkpoint(tmp_path, state(step))
    assert read_checkpoint(tmp_path)["step"] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted((CHECKPOINT, PREVIOUS))


@pytest.mark.parametrize("place", [5, 20, 60, 400, -10])
def test_a_flipped_bit_falls_back_to_the_one_before(tmp_path: Path, place: int) -> None:
    for step in (1, 2):
        write_checkpoint(tmp_path, state(step))
    data = bytearray((tmp_path / CHECKPOINT).read_bytes())
    data[place] ^= 4
    (tmp_path / CHECKPOINT).write_bytes(data)
    assert read_checkpoint(tmp_path)["step"] == 1
    (tmp_path / PREVIOUS).unlink()
    with pytest.raises(TrainingError, match="no run that can be resumed"):
        read_checkpoint(tmp_path)


def test_values_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, state(1))
    bad = state(2)
    bad["optimizer"] = [torch.tensor([1.0, float("nan")])]
    with pytest.raises(TrainingError, match=r"not finite \(optimizer\[0\]\)"):
        write_checkpoint(tmp_path, bad)
    assert read_checkpoint(tmp_path)["step"] == 1


def test_values_that_are_not_finite_are_not_resumed(tmp_path: Path) -> None:
    torch.save({"model": {"weight": torch.tensor(float("inf"))}}, tmp_path / CHECKPOINT)
    with pytest.raises(TrainingError, match="not finite"):
        read_checkpoint(tmp_path)


def test_a_full_disk_keeps_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path, state(1))

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_whole", full)
    with pytest.raises(TrainingError, match="No space left on device; make room"):
        write_checkpoint(tmp_path, state(2))
    assert read_checkpoint(tmp_path)["step"] == 1


def test_an_interrupt_leaves_a_checkpoint_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, the folder would pass for one that holds no run."""
    write_checkpoint(tmp_path, state(1))

    def interrupted(path: Path, data: bytes) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "write_whole", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(tmp_path, state(2))
    assert (tmp_path / CHECKPOINT).exists() and read_checkpoint(tmp_path)["step"] == 1


def test_a_disk_without_links_keeps_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(source: Path, target: Path) -> None:
        raise OSError(errno.EOPNOTSUPP, "no links")

    monkeypatch.setattr("os.link", refused)
    for step in (1, 2):
        write_checkpoint(tmp_path, state(step))
    assert read_checkpoint(tmp_path)["step"] == 2
    (tmp_path / CHECKPOINT).unlink()
    assert has_checkpoint(tmp_path) and read_checkpoint(tmp_path)["step"] == 1


def test_checkpoints_of_earlier_versions_are_read(tmp_path: Path) -> None:
    torch.save(state(7), tmp_path / CHECKPOINT)
    assert read_checkpoint(tmp_path)["step"] == 7
