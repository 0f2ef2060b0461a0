"""Crops: which part of which clip, how it is varied, and that a batch depends on its number only."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import TINY
from training_helpers import SHAPE, sampler_of

from vtok_codec.errors import VtokWarning
from vtok_codec.training.data.crops import CropSampler, ThreadedBatches, blurred
from vtok_codec.training.data.library import ClipLibrary, files_in
from vtok_codec.training.data.resident import ResidentCrops, batches_for
from vtok_codec.training.recipe import Augmentation, CropShape

pytestmark = pytest.mark.usefixtures("one_thread")


def test_batches_depend_on_their_number_only(data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    one, other = sampler_of(data), CropSampler(ClipLibrary([data], 1), Augmentation(), 3, TINY.layout)
    other.batch(9, SHAPE)
    prefetcher = ThreadedBatches(one)
    for number in (0, 1, 2):
        batch = prefetcher.batch(number, SHAPE)
        assert batch.shape == (2, 3, 8, 32, 32) and batch.abs().max() <= 1
        assert torch.equal(batch, other.batch(number, SHAPE))
    prefetcher.close()
    assert not torch.equal(one.batch(0, SHAPE), one.batch(1, SHAPE))
    assert not torch.equal(one.batch(0, SHAPE), sampler_of(data, seed=4).batch(0, SHAPE))


def test_unreadable_files_are_named_once_and_skipped(data: Path) -> None:
    sampler = sampler_of(data)
    with pytest.warns(VtokWarning) as told:
        for number in range(8):
            sampler.batch(number, SHAPE)
    assert len(told) == 1 and "broken.mp4" in str(told[0].message)


def test_a_crop_shows_a_part_of_its_clip(data: Path) -> None:
    """Without augmentation every crop must be found in the source, pixel by pixel."""
    plain = Augmentation(photo=0, shrink=0, skip=0, color=0, flat=0, freeze=0)
    library = ClipLibrary([data], 1 << 30)
    crop = CropSampler(library, plain, 0, TINY.layout).batch(0, CropShape(1, 2, 32))[0]
    pixels = ((crop + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0).numpy()
    mirrored = [pixels[::time, :, ::side] for time in (1, -1) for side in (1, -1)]
    found = False
    for path in library.videos:
        clip = library.read(path)
        if clip is None:
            continue
        windows = np.lib.stride_tricks.sliding_window_view(clip, (2, 32, 32, 3))[:, :, :, 0]
        corners = windows[..., 0, 0, 0, :]
        for candidate in mirrored:
            for place in np.argwhere((corners == candidate[0, 0, 0]).all(-1)):
                found = found or np.array_equal(windows[tuple(place)], candidate)
    assert found


def test_soft_crops_are_blurred_by_a_gaussian() -> None:
    """Of an edge, what the normal distribution says; what is to stay sharp, and what is flat, does not change."""
    videos = torch.full((3, 3, 2, 32, 32), -1.0)
    videos[1:, ..., 16:] = 1.0
    sharp, soft = blurred(videos, [1.5, 0.0, 1.5])[1:]
    assert torch.equal(sharp, videos[1])
    expected = torch.special.ndtr((torch.arange(32) - 15.5) / 1.5) * 2 - 1
    torch.testing.assert_close(soft, expected.expand_as(soft), rtol=0, atol=0.02)
    torch.testing.assert_close(blurred(videos, [1.5, 0.0, 1.5])[0], videos[0])
    assert blurred(videos, [0.0] * 3) is videos


def test_so_many_crops_are_soft(data: Path) -> None:
    """And how the others are cut does not depend on it."""
    library, shape = ClipLibrary([data], 1 << 30), CropShape(200, 8, 32)
    never, often = (
        CropSampler(library, Augmentation(soft=soft), 3, TINY.layout).plans(0, shape) for soft in (0.0, 0.4)
    )
    assert not any(plan.blur for plan in never) and 50 < sum(plan.blur > 0 for plan in often) < 110
    assert [plan.path for plan in never] == [plan.path for plan in often]


@pytest.mark.parametrize("gop_start", [0.0, 1.0])
def test_a_device_cuts_the_same_crops(data: Path, gop_start: float) -> None:
    """Crops of their own size to the last bit, also in half a batch; scaled ones nearly."""
    varied = Augmentation(photo=0.3, freeze=0.2, flat=0.2, gop_start=gop_start, soft=0.3)
    sampler = CropSampler(ClipLibrary([data], 1 << 30), varied, 3, TINY.layout)
    whole, half = (ResidentCrops.load(sampler, torch.device("cpu"), 1 << 30, rank) for rank in (0, 1))
    assert whole is not None and half is not None
    # The second batch of a shape was planned while the first was used, the next one for nothing.
    for shape, number in itertools.product((CropShape(16, 8, 32), CropShape(8, 8, 64)), (1, 2)):
        expected, made = sampler.batch(number, shape), whole.batch(number, shape)
        scaled = torch.tensor([plan.side > shape.size for plan in sampler.plans(number, shape)])
        assert made.shape == expected.shape
        torch.testing.assert_close(made[~scaled], expected[~scaled], rtol=0, atol=1e-6)
        if shape.size == 32:
            assert 0 < scaled.sum() < len(scaled)
            assert (made - expected)[scaled].abs().mean() < 0.1 * expected[scaled].std()
            half_shape = CropShape(8, 8, 32)
            assert torch.equal(half.batch(number, half_shape), made[8:])
    whole.close()
    half.close()


def test_clips_that_do_not_fit_stay_off_the_device(data: Path) -> None:
    sampler = sampler_of(data)
    assert ResidentCrops.load(sampler, torch.device("cpu"), 1000) is None
    prefetcher = batches_for(torch.device("cpu"), sampler)
    assert isinstance(prefetcher, ThreadedBatches)
    prefetcher.close()


def test_a_large_clip_is_held_to_its_bytes(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vtok_codec.training.data.library.MAX_CLIP_BYTES", 7 * 96 * 64 * 3)
    library = ClipLibrary([data], 1 << 30)
    clip = library.read(library.videos[1])
    assert clip is not None and clip.shape == (7, 64, 96, 3)


def test_clips_that_do_not_fit_a_gpu_are_cut_by_the_cpu(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 2000))
    batches = batches_for(torch.device("cuda"), sampler_of(data))
    shape = CropShape(batch=2, frames=4, size=32)
    try:
        assert isinstance(batches, ThreadedBatches)
        assert torch.equal(batches.batch(5, shape), sampler_of(data).batch(5, shape))
    finally:
        batches.close()


def test_the_order_of_files_does_not_depend_on_how_folders_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run begins with the names that it was given, and resumes with whole paths."""
    for name in ("a/z.mp4", "b/deeper/a.mp4", "here/c.mp4"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path / "here")
    given = [Path("../b"), Path("."), Path("../a"), Path("../b")]
    whole = [folder.resolve() for folder in given]
    assert [path.resolve() for path in files_in(given)] == files_in(whole)
    assert [path.name for path in files_in(given)] == ["z.mp4", "a.mp4", "a.mp4", "c.mp4"]
