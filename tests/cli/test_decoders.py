"""Decoding with former weights and with diffusion decoders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_helpers import make_still, text, vtok
from helpers import DATA, LANES, inside, pixels_of, psnr_db


@pytest.fixture(scope="module")
def diffusion_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusion decoder for the shipped model, as a run leaves it in its folder; untrained but for some noise."""
    import torch

    from vtok_codec.models.denoiser import Denoiser
    from vtok_codec.models.presets import PRESETS
    from vtok_codec.models.weights import dump_weights
    from vtok_codec.registry import DEFAULT_MODEL, find_weights

    torch.manual_seed(0)
    model = Denoiser(PRESETS["cdt-nano-4x8x8"])
    torch.nn.init.normal_(model.up.out.weight, std=0.01)
    torch.nn.init.normal_(model.skips[0].weight, std=0.01)
    about = {"codec": DEFAULT_MODEL, "codec_sha256": find_weights(DEFAULT_MODEL).sha256}
    path = tmp_path_factory.mktemp("run") / "ema.safetensors"
    path.write_bytes(dump_weights(model, model.config, about))
    return path


@pytest.mark.parametrize("decoder", ["deterministic", "ddim"])
def test_files_of_former_weights_decode(tmp_path: Path, decoder: str) -> None:
    """By all that ships, nearly as well as by the weights that made them: 29.4 dB, a diffusion decoder's apart."""
    made = tmp_path / "made.mkv"
    chosen = ("--codec", "ffv1", "--decoder", decoder, "-q")
    assert inside("decode", DATA / "former-weights.vtk", made, *chosen) == (0, "", "")
    frames = np.stack(pixels_of(made))
    assert psnr_db(frames, np.stack(pixels_of(LANES)[: len(frames)])) > (28.8 if decoder == "deterministic" else 28.0)


@pytest.mark.parametrize(("weights", "own_psnr_db"), [("fe60b60447dc", 28.3), ("81eb57ba3bae", 29.17)])
def test_files_of_former_coarse_weights_decode(tmp_path: Path, weights: str, own_psnr_db: float) -> None:
    """As well as by the weights that made them."""
    made, file = tmp_path / "made.mkv", DATA / f"former-weights-4x16x16-{weights}.vtk"
    assert inside("decode", file, made, "--codec", "ffv1", "-q") == (0, "", "")
    frames = np.stack(pixels_of(made))
    assert psnr_db(frames, np.stack(pixels_of(LANES)[: len(frames)])) > own_psnr_db - 0.1


def test_decoding_by_diffusion_repeats(clip: Path, diffusion_weights: Path, tmp_path: Path) -> None:
    chosen = ("--decoder", diffusion_weights, "--steps", 2, "--duration", 0.2, "-q")
    assert text(vtok("decode", clip, tmp_path / "a.y4m", *chosen, "--seed", 5)) == (0, "", "")
    for name, seed in (("b", 5), ("c", 6)):
        assert inside("decode", clip, tmp_path / f"{name}.y4m", *chosen, "--seed", seed) == (0, "", "")
    folder = ("--decoder", diffusion_weights.parent)
    for name, decoder in (("d", folder), ("e", ())):
        assert inside("decode", clip, tmp_path / f"{name}.y4m", *decoder, "--duration", 0.2, "-q") == (0, "", "")
    a, b, c, d, e = ((tmp_path / f"{name}.y4m").read_bytes() for name in "abcde")
    assert a == b != c and d != e


@pytest.fixture(scope="module")
def one_token(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a clip of one token per position, and what the deterministic decoder makes of it."""
    # One GOP, of which a chunk has 13 frames, the next one the rest.
    folder = tmp_path_factory.mktemp("one-token")
    assert inside("encode", LANES, folder / "clip.vtk", "--tokens", 1, "--duration", 0.8, "-q") == (0, "", "")
    assert inside("decode", folder / "clip.vtk", folder / "base.mkv", "--codec", "ffv1", "-q") == (0, "", "")
    return folder


@pytest.mark.parametrize("decoder", ["ddim", "flow"])
def test_shipped_diffusion_decoders_look_more_like_the_source(one_token: Path, decoder: str) -> None:
    """Of one token per position: sharper, a tenth nearer by LPIPS, not much further off in error, and without a jump
    from chunk to chunk."""
    import torch

    from vtok_codec.metrics.gradients import gradient_energy
    from vtok_codec.metrics.lpips import load_lpips

    chosen = ("--decoder", decoder, "--steps", 1, "--codec", "ffv1", "-q")
    assert inside("decode", one_token / "clip.vtk", one_token / f"{decoder}.mkv", *chosen) == (0, "", "")
    shown = [pixels_of(one_token / f"{name}.mkv") for name in ("base", decoder)]
    source, base, made = (
        torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float() / 127.5 - 1
        for frames in (pixels_of(LANES)[: len(shown[0])], *shown)
    )
    lpips = load_lpips()
    distances = [float(lpips(source, video).mean()) for video in (base, made)]
    energies = [gradient_energy(video) / gradient_energy(source) for video in (base, made)]
    errors = [float((video - source).square().mean()) for video in (base, made)]
    assert distances[1] < 0.9 * distances[0]
    assert energies[0] + 0.08 < energies[1] < 1.1
    assert errors[1] < 1.4 * errors[0]
    changes = [frames.diff(dim=0).abs().mean(dim=(1, 2, 3)) for frames in (made, source)]
    steps_of = (changes[0] / changes[1]).tolist()
    assert len(made) == 20 and steps_of[12] < 1.2 * np.mean([steps_of[first - 1] for first in (5, 9, 17)])


def test_decoders_that_cannot_be_used_are_told_in_one_line(clip: Path, diffusion_weights: Path, tmp_path: Path) -> None:
    for options, expected, message in (
        (("--decoder", "euler"), 6, "no decoder 'euler'; use one of deterministic, structural, sharp, ddim, flow"),
        (("--decoder", tmp_path), 6, "holds no ema.safetensors"),
        (("--decoder", diffusion_weights, "--steps", 99), 2, "steps 99: give 1 to 16"),
        (("--steps", 2), 2, "no steps and no noise"),
    ):
        code, out, err = inside("decode", clip, tmp_path / "o.mp4", *options)
        assert code == expected and out == "" and message in err and err.count("\n") == 1, err
    assert not list(tmp_path.iterdir())
    code, _, err = inside("encode", LANES, tmp_path / "o.vtk", "--model", diffusion_weights)
    assert code == 6 and "name it as the decoder" in err
    picture, coarse = make_still(tmp_path).with_suffix(".png"), tmp_path / "coarse.vtk"
    assert inside("encode", picture, coarse, "--model", "onevae-nano-4x16x16", "-q") == (0, "", "")
    for decoder, message in (
        ("flow", "no flow decoder for these weights"),
        (diffusion_weights, "is for the tokens of weights"),
    ):
        code, out, err = inside("decode", coarse, tmp_path / "o.png", "--decoder", decoder)
        assert code == 6 and out == "" and message in err and err.count("\n") == 1, err
    assert not (tmp_path / "o.png").exists()
    code, _, err = inside("train", "--stage", "diffusion", "--data", DATA, "--steps", 1)
    assert code == 2 and "needs --objective" in err
    code, _, err = inside("train", "--objective", "ddim", "--data", DATA, "--steps", 1)
    assert code == 2 and "is for --stage diffusion" in err
    code, _, err = inside("train", "--codec", "x", "--data", DATA, "--steps", 1, "--run", tmp_path / "run")
    assert code == 2 and "--codec is for stage diffusion" in err


def test_other_weights_are_refused(clip: Path, tmp_path: Path) -> None:
    """Decoding with weights that differ in one bit would give plausible nonsense."""
    from vtok_codec.registry import DEFAULT_MODEL, find_weights

    data = bytearray(find_weights(DEFAULT_MODEL).data)
    data[-1] ^= 1
    (tmp_path / "other.safetensors").write_bytes(data)
    code, _, err = inside("decode", clip, tmp_path / "o.mp4", "--weights", tmp_path / "other.safetensors")
    assert code == 6 and "name the weights file that made it" in err
