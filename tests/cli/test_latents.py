"""`vtok latents`: arrays that round to the tokens of the same video, and decode to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import LANES, ClipMaker, inside, pixels_of, psnr_db
from safetensors import safe_open
from safetensors.numpy import save

import vtok_codec
from vtok_codec.prior_files import find_prior
from vtok_codec.stream.reading import read_tokens


@pytest.mark.parametrize("model", ["onevae-nano-4x8x8", "onevae-nano-4x16x16"])
def test_latents_round_to_the_tokens_and_decode(model: str, make_clip: ClipMaker, tmp_path: Path) -> None:
    source, out, vtk = make_clip("in.mp4", size="70x50", frames=40), tmp_path / "l.safetensors", tmp_path / "t.vtk"
    options = ("--model", model, "--tokens", 2, "--gop", 1, "-q")
    assert inside("latents", source, out, *options) == (0, "", "")
    assert inside("encode", source, vtk, *options, "--rdo", 0) == (0, "", "")
    with safe_open(out, "np") as file:
        about, latents = file.metadata(), file.get_tensor("latents")
    assert latents.dtype == np.float32 and latents.shape[0] == 12
    assert (about["model"], about["size"], about["rate"]) == (model, "50 70", "25")
    lengths, frames = ([int(each) for each in about[key].split()] for key in ("gop_latents", "gop_frames"))
    assert sum(lengths) == latents.shape[1] and sum(frames) == 40 and len(lengths) > 1
    codec = vtok_codec.load(model, device="cpu")
    with vtk.open("rb") as stream:
        codes = codec.codes(torch.from_numpy(read_tokens(stream, find_prior).astype(np.int64))[None])[0].numpy()
    half = (np.array([8, 8, 8, 5, 5, 5] * 2) // 2).reshape(-1, 1, 1, 1)
    assert np.array_equal(np.rint(latents * half) / half, codes)
    decoded = codec.decode_latents(torch.from_numpy(latents[:, : lengths[0]])[None])[0]
    pixels = ((decoded.permute(1, 2, 3, 0) + 1) * 127.5).round().to(torch.uint8).numpy()
    truth = np.stack(pixels_of(source))[: frames[0]]
    with vtok_codec.open(vtk) as clip:
        rounded = codec.detokenize(clip.tokens(gop=0), size=(50, 70))
    assert psnr_db(pixels[: frames[0], :50, :70], truth) > psnr_db(rounded, truth) - 0.1


def test_varying_frame_times_are_told(make_clip: ClipMaker, tmp_path: Path) -> None:
    source = make_clip("in.mkv", frames=20, options=["-vf", "select=not(mod(n\\,7))+lt(n\\,5)", "-fps_mode", "vfr"])
    code, out, told = inside("latents", source, tmp_path / "l.safetensors", "--tokens", 1)
    assert (code, out) == (0, "") and "the varying times of its frames cannot be stored" in told


@pytest.mark.parametrize("model", ["onevae-nano-4x8x8", "onevae-nano-4x16x16"])
def test_latents_decode_to_the_whole_video(model: str, make_clip: ClipMaker, tmp_path: Path) -> None:
    """Size, rate and the ends of GOPs come back, and the picture is at least as good as from the rounded tokens."""
    source, out, vtk = make_clip("in.mp4", size="70x50", frames=40), tmp_path / "l.safetensors", tmp_path / "t.vtk"
    smooth, rounded = tmp_path / "smooth.mkv", tmp_path / "rounded.mkv"
    options = ("--model", model, "--tokens", 2, "--gop", 1, "-q")
    assert inside("latents", source, out, *options) == (0, "", "")
    assert inside("latents", out, smooth, "-q") == (0, "", "")
    assert inside("encode", source, vtk, *options, "--rdo", 0) == (0, "", "")
    assert inside("decode", vtk, rounded, "-q") == (0, "", "")
    truth, *made = (np.stack(pixels_of(path)) for path in (source, smooth, rounded))
    assert made[0].shape == truth.shape
    assert psnr_db(made[0], truth) > psnr_db(made[1], truth) - 0.1
    code, _, told = inside("latents", out, smooth, "-q")
    assert code == 7 and "exists" in told


def test_latents_that_are_none_are_refused(tmp_path: Path) -> None:
    target = tmp_path / "v.mkv"
    made = tmp_path / "l.safetensors"
    about = {"model": "onevae-nano-4x16x16", "size": "40 40", "rate": "25", "gop_latents": "4", "gop_frames": "1"}
    for key, value, words in (
        ("size", "70 70", "does not fit"),
        ("gop_frames", "2", "stand for 1 frames, not 2"),
        ("sar", "0/1", "no ratio of numbers above 0"),
        ("sar", f"{1 << 40}/1", "no ratio of numbers above 0"),
        ("color", "0 1 256 1", "out of range"),
        ("rotation", "361", "out of range"),
    ):
        made.write_bytes(save({"latents": np.zeros((6, 4, 3, 3), np.float32)}, about | {key: value}))
        code, _, told = inside("latents", made, target, "-q")
        assert code == 3 and words in told and told.count("\n") == 1, told
    cases = {
        "channels for each": np.zeros((7, 4, 2, 2), np.float32),
        "at least 4 latent frames": np.zeros((6, 3, 2, 2), np.float32),
        "must be C t h w": np.zeros((6, 4, 2), np.float32),
        "must be floats, not int64; vtok pack takes tokens": np.zeros((6, 4, 2, 2), np.int64),
        "is not a number from −10000 to 10000": np.full((6, 4, 2, 2), np.nan, np.float32),
        "is not a number from −10000": np.full((6, 4, 2, 2), 1e30, np.float32),
    }
    for words, array in cases.items():
        np.save(tmp_path / "l.npy", array)
        code, _, told = inside("latents", tmp_path / "l.npy", target, "--model", "onevae-nano-4x16x16", "-q")
        assert code == 3 and words in told and told.count("\n") == 1, told
        assert not target.exists()
    code, _, told = inside("latents", tmp_path / "none.npy", target, "-q")
    assert code == 3 and "cannot read" in told
    np.save(tmp_path / "l.npy", np.zeros((6, 4, 2, 2), np.float32))
    code, _, told = inside("latents", tmp_path / "l.npy", tmp_path / "v.txt", "-q")
    assert code == 7 and told.count("\n") == 1


def test_large_pictures_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "l.npy", np.zeros((6, 1, 30, 30), np.float16))
    arguments = (tmp_path / "l.npy", tmp_path / "v.mkv", "--max-pixels", 50_000, "-q")
    code, _, told = inside("latents", *arguments)
    assert code == 3 and "more than --max-pixels 50000" in told and not (tmp_path / "v.mkv").exists()


@pytest.mark.parametrize(("frames", "kept"), [(12, 0.95), (50, 0.67)])
def test_an_input_that_breaks_off_leaves_all_that_was_read(
    make_clip: ClipMaker, tmp_path: Path, frames: int, kept: float
) -> None:
    """As many latent frames as `vtok encode` gets of it."""
    whole = make_clip("in.mkv", frames=frames).read_bytes()
    cut, out = tmp_path / "cut.mkv", tmp_path / "l.npy"
    cut.write_bytes(whole[: int(kept * len(whole))])
    code, _, told = inside("latents", cut, out, "-q")
    assert code == 3 and told.count("\n") == 1
    assert inside("encode", cut, tmp_path / "l.vtk", "-q")[0] == 3
    assert inside("tokens", tmp_path / "l.vtk", tmp_path / "t.npy")[0] == 0
    assert 1 < np.load(out).shape[1] == len(np.load(tmp_path / "t.npy"))


def test_halves_and_plain_arrays(tmp_path: Path) -> None:
    out = tmp_path / "l.npy"
    assert inside("latents", LANES, out, "--half", "--filter", "scale=64:48", "-q") == (0, "", "")
    assert (array := np.load(out)).dtype == np.float16 and array.shape == (24, 16, 6, 8)


def test_options_for_making_latents_are_refused_where_they_are_decoded(tmp_path: Path) -> None:
    """Even if they say what is the default."""
    np.save(tmp_path / "l.npy", np.zeros((24, 2, 6, 8), np.float32))
    for option in (["--gop", 4], ["--tokens", 4], ["--half"], ["--max-mib", 512]):
        code, _, told = inside("latents", tmp_path / "l.npy", tmp_path / "out.mp4", *option)
        assert code == 2 and "making latents" in told and not (tmp_path / "out.mp4").exists()


def test_what_cannot_be_is_told(tmp_path: Path) -> None:
    out = tmp_path / "l.npy"
    cases = [
        (7, "use a .npy", [LANES, tmp_path / "l.txt"]),
        (3, "--max-mib", [LANES, out, "--max-mib", 1]),
        (3, "max-pixels", [LANES, out, "--max-pixels", 100]),
        (2, "tokens", [LANES, out, "--tokens", 5]),
        (2, "tokens", [LANES, out, "--tokens", 0]),
        (3, "holds tokens", [tmp_path / "a.vtk", out]),
        (3, "name a video", ["-", out]),
        (3, "none.mp4", [tmp_path / "none.mp4", out]),
    ]
    for code, words, arguments in cases:
        got, stdout, told = inside("latents", *arguments, "-q")
        assert (got, stdout) == (code, "") and words in told and told.count("\n") == 1, (arguments, told)
        assert not out.exists()


def test_what_latents_leave_out_is_told(make_clip: ClipMaker, tmp_path: Path) -> None:
    """As `vtok encode` and `vtok decode` tell it."""
    deep = make_clip("deep.mkv", frames=2, options=["-c:v", "ffv1", "-pix_fmt", "yuv420p10le"])
    code, _, told = inside("latents", deep, tmp_path / "l.safetensors")
    assert code == 0 and "10 bits" in told
    assert inside("latents", deep, tmp_path / "q.npy", "-q") == (0, "", "")


def test_the_model_that_made_latents_decodes_them(make_clip: ClipMaker, tmp_path: Path) -> None:
    """One-DVA gives the latents of its codec."""
    source, latents = make_clip("a.mp4", frames=5), tmp_path / "l.safetensors"
    chosen = ("--model", "onedva-nano-4x16x16", "-q")
    assert inside("latents", source, latents, *chosen) == (0, "", "")
    assert inside("latents", latents, tmp_path / "back.mkv", *chosen) == (0, "", "")
    assert len(pixels_of(tmp_path / "back.mkv")) == 5
