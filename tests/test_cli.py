"""The command line as a shell sees it: exact output, exit codes, nothing half-written, real pipes."""

from __future__ import annotations

import io
import json
import os
import pty
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import astuple
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import typer
from conftest import DATA, LANES, ClipMaker, inside, pixels_of, psnr_db, times_of
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from vtok_codec.cli.common import run_jobs, whole_output
from vtok_codec.codec.arrayfile import read_array
from vtok_codec.codec.quality import QUALITIES
from vtok_codec.container.reader import VtkReader
from vtok_codec.errors import InputError, OutputError

GOLDEN = DATA / "golden-1.0.vtk"
VTOK = [sys.executable, "-m", "vtok_codec"]


def vtok(*args: object, cwd: Path | None = None, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*VTOK, *map(str, args)], cwd=cwd, input=stdin, capture_output=True, timeout=300, check=False)


def text(result: subprocess.CompletedProcess[bytes]) -> tuple[int, str, str]:
    return result.returncode, result.stdout.decode(), result.stderr.decode()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository's clip, encoded by the command."""
    path = tmp_path_factory.mktemp("clip") / "lanes.vtk"
    assert text(vtok("encode", LANES, path, "-q", "--gop", "0.8")) == (0, "", "")
    return path


def test_help_names_every_command() -> None:
    code, out, err = text(vtok("--help"))
    assert code == 0 and err == ""
    for command in ("encode", "decode", "info", "verify", "tokens", "pack", "models", "train"):
        assert f"  {command} " in out


def test_starting_needs_no_torch() -> None:
    script = (
        "import sys; from vtok_codec.cli.app import app; import vtok_codec.codec.tokenfile; "
        f"sys.argv = ['vtok', 'verify', {str(GOLDEN)!r}]\n"
        "try: app()\nexcept SystemExit as end: print(end.code, 'torch' in sys.modules, 'av' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout.decode()
    assert out.splitlines()[-1] == "0 False False"


def test_only_eval_needs_its_packages() -> None:
    """An install without them trains, codes and packs."""
    script = (
        "import importlib, pkgutil, sys, vtok_codec\n"
        "sys.modules |= dict.fromkeys(('imageio_ffmpeg', 'matplotlib', 'pytorch_msssim', 'scipy'))\n"
        "for found in pkgutil.walk_packages(vtok_codec.__path__, 'vtok_codec.'):\n"
        "    if not found.name.startswith(('vtok_codec.evaluation', 'vtok_codec.__main__')):\n"
        "        importlib.import_module(found.name); print(found.name)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert {"vtok_codec.training.run", "vtok_codec.codec.encoder", "vtok_codec.cli.eval"} <= set(ended.stdout.split())


def test_verify_and_info_of_a_whole_file() -> None:
    assert text(vtok("verify", GOLDEN)) == (0, f"{GOLDEN}: whole, 12 frames in 2 GOPs\n", "")
    code, out, err = text(vtok("info", GOLDEN))
    assert (code, err) == (0, "")
    assert out.splitlines()[:3] == [
        f"{GOLDEN}:",
        "  video  21x13, 12 frames, 29.97 frames/s, 0.417 s",
        "  shape  SAR 4/3, rotation -90, color 1/9/18/9 (range/primaries/transfer/matrix)",
    ]
    fields = json.loads(text(vtok("info", "--json", GOLDEN))[1])
    assert (fields["frames"], fields["rate"], fields["model"]["stride"]) == (12, "30000/1001", [4, 8, 8])


def test_verify_reads_standard_input() -> None:
    assert text(vtok("verify", "-", stdin=GOLDEN.read_bytes())) == (0, "-: whole, 12 frames in 2 GOPs\n", "")


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (lambda data: data[:-1], 5, "the footer is cut short (after chunk 3 (GOP 1, 0.35 s))"),
        (lambda data: data[:700], 5, "the file is cut short (before the first chunk)"),
        (lambda data: b"", 4, "the input is empty"),
        (lambda data: b"hello" * 20, 4, "not a .vtk file"),
        (lambda data: data[:9] + b"\7" + data[10:], 4, "format version 1793 is not known; this is vtok for version 1"),
    ],
)
def test_damage_has_its_own_exit_code(tmp_path: Path, change: object, code: int, message: str) -> None:
    path = tmp_path / "bad.vtk"
    path.write_bytes(change(GOLDEN.read_bytes()))  # type: ignore[operator]
    assert text(vtok("verify", path)) == (code, "", f"vtok: {path}: {message}\n")


def test_tokens_are_exported(tmp_path: Path) -> None:
    wanted = np.load(DATA / "golden-1.0.npy")
    assert inside("tokens", GOLDEN, tmp_path / "t.npy") == (0, "", "")
    assert inside("tokens", GOLDEN, tmp_path / "t.safetensors", "--gop", "1") == (0, "", "")
    assert np.array_equal(np.load(tmp_path / "t.npy"), wanted)
    assert np.array_equal(load_file(tmp_path / "t.safetensors")["tokens"], wanted[3:])
    code, _, err = inside("tokens", GOLDEN, tmp_path / "u.npy", "--gop", "2")
    assert (code, err) == (3, "vtok: there is no GOP 2; the file has 2\n")
    assert not (tmp_path / "u.npy").exists()


def test_models_lists_the_default() -> None:
    code, out, err = text(vtok("models"))
    assert (code, err) == (0, "") and out.startswith("onevae-nano-4x8x8 (default): ")
    assert "\nonevae-nano-4x16x16: " in out
    assert "\n--quality medium (default): onevae-nano-4x8x8, 2 tokens, " in out


def test_encode_then_decode_as_typed(clip: Path, tmp_path: Path) -> None:
    assert text(vtok("verify", clip)) == (0, f"{clip}: whole, 61 frames in 4 GOPs\n", "")
    code, out, err = text(vtok("decode", clip, tmp_path / "rec.mp4"))
    assert (code, out) == (0, "") and err.startswith(f"vtok: {clip} -> {tmp_path / 'rec.mp4'}: 61 frames, ")
    assert times_of(tmp_path / "rec.mp4") == times_of(LANES)
    assert [path.name for path in tmp_path.iterdir()] == ["rec.mp4"]


def test_pipes_give_the_same_tokens_and_frames(clip: Path, tmp_path: Path, ffmpeg: str) -> None:
    """ffmpeg … -f nut - | vtok encode - - | vtok decode - - | ffmpeg, all at once."""
    shell = (
        f"{ffmpeg} -v error -i {LANES} -c copy -f nut - | {' '.join(VTOK)} encode - - -q --gop 0.8 "
        f"| tee {tmp_path}/piped.vtk | {' '.join(VTOK)} decode - - -q "
        f"| {ffmpeg} -v error -i - -c:v ffv1 {tmp_path}/rec.mkv"
    )
    done = subprocess.run(["bash", "-o", "pipefail", "-c", shell], capture_output=True, timeout=300, check=False)
    assert text(done) == (0, "", "")
    for name, path in (("file", clip), ("pipe", tmp_path / "piped.vtk")):
        assert inside("tokens", path, tmp_path / f"{name}.npy")[0] == 0
    assert np.array_equal(np.load(tmp_path / "file.npy"), np.load(tmp_path / "pipe.npy"))
    assert inside("decode", clip, tmp_path / "direct.mkv", "--codec", "ffv1")[0] == 0
    direct, piped = pixels_of(tmp_path / "direct.mkv"), pixels_of(tmp_path / "rec.mkv")
    assert len(direct) == 61 and all(np.array_equal(a, b) for a, b in zip(direct, piped, strict=True))


def test_a_pipe_keeps_every_audio_packet_beside_its_pictures(make_clip: ClipMaker, tmp_path: Path, ffmpeg: str) -> None:
    """Two tracks through ffmpeg | encode | decode: the same packets at the same times, none far from its pictures."""
    one = make_clip("one.mkv", frames=75, audio=True)
    source = tmp_path / "two.mkv"
    tracks = ["-map", "0", "-map", "0:a", "-c:v", "copy", "-c:a:0", "copy", "-c:a:1", "libopus"]
    subprocess.run([ffmpeg, "-v", "error", "-i", one, *tracks, source], check=True)
    shell = (
        f"{ffmpeg} -v error -i {source} -map 0 -c copy -f nut - | tee {tmp_path}/in.nut "
        f"| {' '.join(VTOK)} encode - - -q --gop 0.8 "
        f"| {' '.join(VTOK)} decode - - -q > {tmp_path}/back.nut"
    )
    done = subprocess.run(["bash", "-o", "pipefail", "-c", shell], capture_output=True, timeout=300, check=False)
    assert text(done) == (0, "", "")
    given, back = packets_of(tmp_path / "in.nut"), packets_of(tmp_path / "back.nut")
    for track in (0, 1):
        wanted, got = ([packet for packet in packets if packet[0] == track] for packets in (given, back))
        assert len(wanted) > 100 and got == wanted
    assert sorted(at for track, at, _ in given if track is None) == [at for track, at, _ in back if track is None]
    shown = Fraction(0)
    for track, at, _ in back:
        if track is None:
            shown = at
        assert abs(at - shown) < 1


def packets_of(path: Path) -> list[tuple[int | None, Fraction, bytes]]:
    """Audio track, or None for a picture, time in seconds, and data of each packet, in the order of the file."""
    with av.open(path) as container:
        tracks = {stream.index: number for number, stream in enumerate(container.streams.audio)}
        return [
            (tracks.get(packet.stream.index), packet.pts * packet.time_base, bytes(packet))
            for packet in container.demux()
            if packet.pts is not None and packet.time_base is not None
        ]


@pytest.fixture(scope="module")
def diffusion_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusion decoder for the shipped model, as a run leaves it in its folder; untrained but for some noise."""
    import torch

    from vtok_codec.models.denoiser import Denoiser
    from vtok_codec.models.presets import DENOISERS
    from vtok_codec.models.weights import dump_weights
    from vtok_codec.registry import DEFAULT_MODEL, find_weights

    torch.manual_seed(0)
    model = Denoiser(DENOISERS["cdt-nano-4x8x8"])
    torch.nn.init.normal_(model.up.out.weight, std=0.01)
    torch.nn.init.normal_(model.skips[0].weight, std=0.01)
    about = {"objective": "ddim", "codec": DEFAULT_MODEL, "codec_sha256": find_weights(DEFAULT_MODEL).sha256}
    path = tmp_path_factory.mktemp("run") / "ema.safetensors"
    path.write_bytes(dump_weights(model, "cdt-nano-4x8x8", about))
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


@pytest.mark.parametrize(("decoder", "steps"), [("ddim", 1), ("ddim", 2), ("flow", 1)])
def test_shipped_diffusion_decoders_look_more_like_the_source(
    clip: Path, tmp_path: Path, decoder: str, steps: int
) -> None:
    """Of one token a position: sharper, a tenth nearer by LPIPS, not much further off in error, and without a jump from
    chunk to chunk."""
    import torch

    from vtok_codec.evaluation.energy import gradient_energy
    from vtok_codec.evaluation.lpips import load_lpips

    # The first GOP, of which a chunk has 13 frames, the next one the rest.
    chosen = ("--tokens", 1, "--duration", 0.8, "--codec", "ffv1", "-q")
    for name, options in (("base", ()), (decoder, ("--decoder", decoder, "--steps", steps))):
        assert inside("decode", clip, tmp_path / f"{name}.mkv", *chosen, *options) == (0, "", "")
    shown = [pixels_of(tmp_path / f"{name}.mkv") for name in ("base", decoder)]
    source, base, made = (
        torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float() / 127.5 - 1
        for frames in (pixels_of(LANES)[: len(shown[0])], *shown)
    )
    lpips = load_lpips()
    distances = [float(lpips(source, video).mean()) for video in (base, made)]
    energies = [gradient_energy(video) / gradient_energy(source) for video in (base, made)]
    errors = [float((video - source).square().mean()) for video in (base, made)]
    assert distances[1] < 0.9 * distances[0]
    assert energies[0] + 0.1 < energies[1] < 1.1
    assert errors[1] < 1.4 * errors[0]
    changes = [frames.diff(dim=0).abs().mean(dim=(1, 2, 3)) for frames in (made, source)]
    steps_of = (changes[0] / changes[1]).tolist()
    assert len(made) == 20 and steps_of[12] < 1.2 * np.mean([steps_of[first - 1] for first in (5, 9, 17)])


def test_decoders_that_cannot_be_used_are_told_in_one_line(clip: Path, diffusion_weights: Path, tmp_path: Path) -> None:
    for options, expected, message in (
        (("--decoder", "euler"), 6, "no decoder 'euler'; use deterministic, ddim or flow"),
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
    for decoder, message in (("flow", "no flow decoder for weights"), (diffusion_weights, "decodes tokens of weights")):
        code, out, err = inside("decode", coarse, tmp_path / "o.png", "--decoder", decoder)
        assert code == 6 and out == "" and message in err and err.count("\n") == 1, err
    assert not (tmp_path / "o.png").exists()
    code, _, err = inside("train", "--stage", "diffusion", "--data", DATA, "--steps", 1)
    assert code == 2 and "needs --objective" in err
    code, _, err = inside("train", "--objective", "ddim", "--data", DATA, "--steps", 1)
    assert code == 2 and "is for --stage diffusion" in err
    code, _, err = inside("train", "--codec", "x", "--data", DATA, "--steps", 1, "--run", tmp_path / "run")
    assert code == 2 and "a codec to decode for is of stage diffusion" in err


def test_decode_writes_every_pipe_format(clip: Path, tmp_path: Path) -> None:
    for name in ("y4m", "matroska", "mp4"):
        result = vtok("decode", clip, "-", "--format", name, "--duration", "0.2", "-q")
        assert result.returncode == 0, result.stderr
        (tmp_path / name).write_bytes(result.stdout)
        assert len(pixels_of(tmp_path / name)) == 5


def test_several_inputs_go_to_a_folder(make_clip: ClipMaker, tmp_path: Path) -> None:
    make_clip("a.mp4"), make_clip("b.mkv")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "out").mkdir()
    code, out, err = text(vtok("encode", "a.mp4", "broken.mp4", "b.mkv", "-o", "out", "-q", cwd=tmp_path))
    assert (code, out) == (3, "") and err.count("\n") == 1 and "broken.mp4" in err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.vtk", "b.vtk"]


def test_exported_tokens_say_how_to_decode_them(clip: Path, tmp_path: Path) -> None:
    target = tmp_path / "t.safetensors"
    assert inside("tokens", clip, target) == (0, "", "")
    with safe_open(target, "np") as file:
        about, tokens = file.metadata(), file.get_tensor("tokens")
    lengths = [int(length) for length in about["gop_latents"].split()]
    header = VtkReader(io.BytesIO(clip.read_bytes())).header
    assert len(lengths) == 4 and sum(lengths) == len(tokens)
    assert about["size"] == f"{header.height} {header.width}"
    assert (about["model"], about["weights_sha256"]) == (header.model.name, header.model.weights_sha256)


def test_tokens_become_a_file_again(clip: Path, tmp_path: Path) -> None:
    arrays = {suffix: tmp_path / f"t{suffix}" for suffix in (".safetensors", ".npy")}
    for path in arrays.values():
        assert inside("tokens", clip, path) == (0, "", "")
    back = tmp_path / "back.vtk"
    assert inside("pack", arrays[".safetensors"], back) == (0, "", "")
    ours, theirs = (json.loads(inside("info", "--json", path)[1]) for path in (back, clip))
    for key in ("frames", "rate", "width", "height", "tokens", "gops", "duration_s"):
        assert ours[key] == theirs[key], key
    assert inside("tokens", back, tmp_path / "again.npy")[0] == 0
    assert np.array_equal(np.load(tmp_path / "again.npy"), np.load(arrays[".npy"]))
    for path in (back, clip):
        assert inside("decode", path, tmp_path / f"{path.stem}.mkv", "--codec", "ffv1", "-q") == (0, "", "")
    assert np.array_equal(pixels_of(tmp_path / "back.mkv"), pixels_of(tmp_path / "lanes.mkv"))
    # What a video model makes: any integers, and nothing said of them.
    np.save(tmp_path / "made.npy", np.random.default_rng(0).integers(0, 64000, (3, 4, 5, 1)))
    assert inside("pack", tmp_path / "made.npy", tmp_path / "made.vtk", "--rate", "29.97") == (0, "", "")
    made = json.loads(inside("info", "--json", tmp_path / "made.vtk")[1])
    assert (made["frames"], made["rate"], made["width"], made["height"]) == (9, "2997/100", 40, 32)
    piped = vtok("pack", arrays[".safetensors"], "-")
    assert (piped.returncode, piped.stderr) == (0, b"") and piped.stdout == back.read_bytes()


def test_packed_tokens_are_shown_as_their_video_was(tmp_path: Path) -> None:
    """The golden file's header is of a turned, anamorphic, wide-gamut video; a model of its name is not here."""
    assert inside("tokens", GOLDEN, tmp_path / "t.safetensors")[0] == 0
    array, header = read_array(tmp_path / "t.safetensors"), VtkReader(io.BytesIO(GOLDEN.read_bytes())).header
    info = array.info((0, 0))
    assert (info.width, info.height, info.rate) == (header.width, header.height, header.rate)
    assert (info.sar, astuple(info.color), info.rotation) == (header.sar, header.color, header.rotation)
    assert [frames for _, frames in array.gops()] == [9, 3]
    still = make_still(tmp_path)
    assert inside("tokens", still, tmp_path / "s.safetensors")[0] == 0
    assert inside("pack", tmp_path / "s.safetensors", tmp_path / "s.vtk") == (0, "", "")
    assert json.loads(inside("info", "--json", tmp_path / "s.vtk")[1])["rate"] is None


def make_still(folder: Path) -> Path:
    frame = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    with av.open(folder / "still.png", "w") as container:
        stream = container.add_stream("png", width=30, height=20, pix_fmt="rgb24")
        container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
    assert inside("encode", folder / "still.png", folder / "still.vtk", "-q") == (0, "", "")
    return folder / "still.vtk"


def test_the_coder_is_chosen_and_both_decode_alike(clip: Path, tmp_path: Path) -> None:
    assert inside("encode", LANES, tmp_path / "z.vtk", "-q", "--gop", "0.8", "--coder", "zstd") == (0, "", "")
    assert clip.stat().st_size < 0.9 * (tmp_path / "z.vtk").stat().st_size
    for path in (clip, tmp_path / "z.vtk"):
        assert inside("decode", path, tmp_path / f"{path.stem}.mkv", "--codec", "ffv1", "-q") == (0, "", "")
    assert np.array_equal(pixels_of(tmp_path / "z.mkv"), pixels_of(tmp_path / "lanes.mkv"))
    code, _, err = inside("encode", LANES, tmp_path / "x.vtk", "--coder", "lzma")
    assert (code, err) == (2, "vtok: coder 'lzma': choose from waves, zstd\n")


def test_arrays_that_are_no_tokens_are_refused(clip: Path, tmp_path: Path) -> None:
    assert inside("tokens", clip, tmp_path / "t.safetensors")[0] == 0
    tokens = load_file(tmp_path / "t.safetensors")["tokens"]
    with safe_open(tmp_path / "t.safetensors", "np") as file:
        about = file.metadata()
    arrays = {
        "flat.npy": tokens.ravel(),
        "high.npy": np.full((1, 2, 2, 1), 64000),
        "float.npy": np.zeros((1, 2, 2, 1)),
        "empty.npy": np.zeros((0, 2, 2, 1), np.uint16),
        "five.npy": np.zeros((1, 2, 2, 5), np.uint16),
    }
    for name, array in arrays.items():
        np.save(tmp_path / name, array)
    changes = {
        "size.safetensors": {"size": "9 9"},
        "side.safetensors": {"size": "high"},
        "gops.safetensors": {"gop_latents": "1 2"},
        "frames.safetensors": {"gop_frames": " ".join(["99"] * len(about["gop_latents"].split()))},
        "rate.safetensors": {"rate": "fast"},
        "long.safetensors": {"rate": "1e999999999"},
        "path.safetensors": {"model": str(tmp_path / "t.safetensors")},
        "escape.safetensors": {"weights_sha256": "\x1b[2J"},
        "short.safetensors": {"gop_frames": "9"},
        "weights.safetensors": {"weights_sha256": "0" * 64},
        "model.safetensors": {"model": "none"},
    }
    for name, change in changes.items():
        save_file({"tokens": tokens}, tmp_path / name, about | change)
    save_file({"a": tokens, "b": tokens}, tmp_path / "two.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "t.safetensors").read_bytes()[:500])
    (tmp_path / "none.npy").write_bytes(b"no array")
    np.savez(tmp_path / "zip.npz", tokens=tokens)
    (tmp_path / "zip.npz").rename(tmp_path / "zip.npy")
    huge = (tmp_path / "five.npy").read_bytes()
    (tmp_path / "huge.npy").write_bytes(huge.replace(b"(1, 2, 2, 5)", b"(1, 2, 2, %d)" % (1 << 40)))
    (tmp_path / "open.npy").write_bytes(huge.replace(b"'shape': (", b"'shape': (("))
    wrong = {
        "flat.npy": (3, "tokens must be t h w n"),
        "high.npy": (3, "token 64000 is not below"),
        "float.npy": (3, "must be integers"),
        "empty.npy": (3, "tokens must be t h w n"),
        "five.npy": (3, "with n from 1 to 4"),
        "size.safetensors": (3, "size 9 9 is not what"),
        "side.safetensors": (3, "size 'high' is no list of 2 integers"),
        "gops.safetensors": (3, "gop_latents sum up to 3"),
        "short.safetensors": (3, "gop_frames has 1 numbers"),
        "long.safetensors": (3, "rate '1e999999999': give frames a second"),
        "path.safetensors": (6, "is here; 'vtok models' lists"),
        "escape.safetensors": (6, "made with weights '\\x1b[2J'"),
        "zip.npy": (3, "can be read"),
        "huge.npy": (3, "can be read"),
        "open.npy": (3, "can be read"),
        "-": (3, "cannot be read from standard input"),
        "frames.safetensors": (3, "frames, not 99"),
        "rate.safetensors": (3, "rate 'fast': give frames a second"),
        "weights.safetensors": (6, "made with weights '000000000000'"),
        "model.safetensors": (6, "no model 'none' is here"),
        "two.safetensors": (3, "has no array called tokens"),
        "cut.safetensors": (3, "can be read"),
        "none.npy": (3, "can be read"),
        "absent.npy": (3, "No such file"),
    }
    before = sorted(tmp_path.iterdir())
    for name, (expected, message) in wrong.items():
        code, out, err = inside("pack", name if name == "-" else tmp_path / name, tmp_path / "o.vtk")
        assert (code, out) == (expected, ""), (name, err)
        assert message in err and err.count("\n") == 1, err
    code, _, err = inside("pack", tmp_path / "t.safetensors", tmp_path / "o.mp4")
    assert code == 7 and "is the name of a video" in err
    code, _, err = inside("pack", tmp_path / "t.safetensors", tmp_path / "o.vtk", "--rate", "0")
    assert code == 2 and "rate '0': give frames a second" in err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_harm_nothing(tmp_path: Path, closed: str) -> None:
    """A daemon may have none: a file that is opened next must not take their place."""
    shutil.copy(GOLDEN, tmp_path / "golden.vtk")
    command = " ".join([*map(shlex.quote, VTOK), f"tokens golden.vtk o.npy {closed}"])
    result = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
    assert np.load(tmp_path / "o.npy").shape == (5, 2, 3, 2)
    command = " ".join([*map(shlex.quote, VTOK), "info - <&-"])
    result = subprocess.run(["sh", "-c", command], capture_output=True, check=False)
    assert (result.returncode, result.stderr) == (4, b"vtok: standard input: the input is empty\n")


def test_the_usage_says_vtok() -> None:
    assert text(vtok("encode", "--help"))[1].split()[:3] == ["Usage:", "vtok", "encode"]


def test_existing_outputs_are_safe(tmp_path: Path) -> None:
    target = tmp_path / "t.npy"
    target.write_bytes(b"precious")
    code, _, err = inside("tokens", GOLDEN, target)
    assert (code, err) == (7, f"vtok: {target} exists; use -f to overwrite it\n")
    assert target.read_bytes() == b"precious"
    assert inside("tokens", GOLDEN, target, "-f") == (0, "", "")
    assert np.load(target).shape == (5, 2, 3, 2)


NO_MODEL = "vtok: no model '{}' is here; 'vtok models' lists those that are, others are named by a path\n"
NO_DEVICE = "vtok: device 'tpu' is unknown; use auto, cpu or cuda\n"
NO_ENCODER = "vtok: codec 'no' is not a video encoder of this build\n"
NO_VAL = "vtok: none is no folder; name one of held-out clips\n"
VIDEO_NAME = "vtok: in2.mp4 is the name of a video, which a .vtk file is not; give the output another\n"
VTK_ALREADY = "vtok: golden.vtk is a .vtk file already; vtok decode makes a video of it\n"
NO_DATA = "vtok: no video or image in empty; name another folder\n"


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["encode", "none.mp4", "o.vtk"], 3, "vtok: none.mp4: no such file\n"),
        (["encode", "in.mp4", "in.mp4", "-f"], 7, "vtok: in.mp4 is the input; name another output\n"),
        (["encode", "in.mp4", "no/o.vtk"], 7, "vtok: cannot write no/o.vtk: No such file or directory\n"),
        (["encode", "in.mp4", "o.vtk", "-m", "none"], 6, NO_MODEL.format("none")),
        (["encode", "in.mp4", "o.vtk", "-t", "5"], 2, "vtok: tokens 5: onevae-nano-4x8x8 has 1 to 4 tokens\n"),
        (["encode", "in.mp4", "o.vtk", "--device", "tpu"], 2, NO_DEVICE),
        (["encode", "in.mp4", "-o", "none"], 7, "vtok: none is not a folder; make it first\n"),
        (["decode", "none.vtk", "o.mp4"], 3, "vtok: cannot read none.vtk: No such file or directory\n"),
        (["decode", "in.mp4", "o.mp4"], 4, "vtok: in.mp4: not a .vtk file\n"),
        (["decode", "golden.vtk", "o.mp4"], 6, NO_MODEL.format("a model")),
        (["decode", "golden.vtk", "o.txt"], 7, None),
        (["tokens", "golden.vtk", "o.csv"], 7, "vtok: o.csv: use a .npy or .safetensors file\n"),
        (["info", "none.vtk"], 3, "vtok: cannot read none.vtk: No such file or directory\n"),
        (["train", "--minutes", "1", "--data", "empty"], 8, NO_DATA),
        (["train", "--minutes", "1", "--data", ".", "--val", "none"], 8, NO_VAL),
        (["train", "--minutes", "1", "--data", ".", "--device", "tpu"], 2, NO_DEVICE),
        (["encode", "in.mp4", "in2.mp4"], 7, VIDEO_NAME),
        (["encode", "golden.vtk", "o.vtk"], 3, VTK_ALREADY),
        (["encode", "in.mp4", "none/"], 7, "vtok: none/ is no folder; make it first, and use -o none/\n"),
        (["decode", "golden.vtk", "-o", ".", "--suffix", "txt"], 7, None),
        (["decode", "golden.vtk", "o.mp4", "--codec", "no"], 2, NO_ENCODER),
        (["eval", "in.mp4", "--against", "mpeg1"], 2, "vtok: no anchor 'mpeg1'; choose from x264, x265, av1\n"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)  # fmt: skip
def test_errors_are_one_line_and_leave_nothing(
    make_clip: ClipMaker, tmp_path: Path, args: list[str], code: int, message: str | None
) -> None:
    make_clip("in.mp4", frames=3)
    shutil.copy(GOLDEN, tmp_path / "golden.vtk")
    (tmp_path / "empty").mkdir()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    result = inside(*args, cwd=tmp_path)
    assert result[:2] == (code, "") and result[2].count("\n") == 1
    assert message is None or result[2] == message
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    "args",
    [["encode"], ["encode", "a", "b", "c"], ["decode", "x"], ["train"], ["no-such"]]
    + [["train", "--data", ".", "--minutes", minutes] for minutes in ("-5", "0", "nan")]
    + [["train", "--resume", "run", "--steps", "1", "--data", "."], ["train", "--seed", "-1", "--steps", "1"]],
)
def test_wrong_usage_is_exit_code_2(args: list[str]) -> None:
    code, _, err = inside(*args)
    assert code == 2 and "Traceback" not in err


def test_other_weights_are_refused(clip: Path, tmp_path: Path) -> None:
    """Decoding with weights that differ in one bit would give plausible nonsense."""
    from vtok_codec.registry import DEFAULT_MODEL, find_weights

    data = bytearray(find_weights(DEFAULT_MODEL).data)
    data[-1] ^= 1
    (tmp_path / "other.safetensors").write_bytes(data)
    code, _, err = inside("decode", clip, tmp_path / "o.mp4", "--weights", tmp_path / "other.safetensors")
    assert code == 6 and "name the right ones" in err


def test_a_cut_file_decodes_up_to_the_cut(clip: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.vtk"
    cut.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    code, out, err = inside("decode", cut, tmp_path / "o.mp4", "-q")
    frames = pixels_of(tmp_path / "o.mp4")
    assert (code, out) == (5, "") and len(frames) >= 13
    assert err.startswith(f"vtok: {cut}: the file is cut short (after chunk ")
    assert err.endswith(f"); {len(frames)} frames were decoded\n")


def test_qualities_choose_model_and_tokens(make_clip: ClipMaker, tmp_path: Path) -> None:
    source = make_clip("a.mp4", frames=2)
    for options, stride, tokens in (
        (["-Q", "tiny"], [4, 16, 16], 2),
        (["-Q", "best"], [4, 8, 8], 4),
        (["-Q", "best", "-t", "3"], [4, 8, 8], 3),
        ([], [4, 8, 8], 2),
    ):
        assert inside("encode", source, tmp_path / "o.vtk", "-qf", *options) == (0, "", "")
        info = json.loads(inside("info", tmp_path / "o.vtk", "--json")[1])
        assert (info["model"]["stride"], info["tokens"]) == (stride, tokens)
        assert inside("decode", tmp_path / "o.vtk", tmp_path / "o.mkv", "-qf") == (0, "", "")
        assert len(pixels_of(tmp_path / "o.mkv")) == len(pixels_of(source))
    code, _, err = inside("encode", source, tmp_path / "p.vtk", "--quality", "good")
    assert (code, err) == (2, "vtok: quality good: choose from tiny, small, medium, best\n")


def test_qualities_choose_stickiness(make_clip: ClipMaker, tmp_path: Path) -> None:
    source = make_clip("a.mp4", frames=30)
    files = []
    for options in (["-Q", "small"], ["-t", "1", "--sticky", "0.05"], ["-t", "1"]):
        assert inside("encode", source, tmp_path / "o.vtk", "-qf", *options) == (0, "", "")
        files.append((tmp_path / "o.vtk").read_bytes())
    assert files[0] == files[1] != files[2]


def test_the_readme_tells_each_quality() -> None:
    readme = (DATA.parent.parent / "README.md").read_text(encoding="utf-8")
    for name, quality in QUALITIES.items():
        tokens = f"{quality.tokens}, δ {quality.stickiness:g}" if quality.stickiness else quality.tokens
        assert f"| `{name}` | {tokens} | {quality.bits_per_pixel:.4f} | {quality.psnr_db:.2f} |" in readme


def test_pictures_too_large_are_refused_before_any_work(clip: Path, tmp_path: Path) -> None:
    for command, source, target in (("encode", LANES, "o.vtk"), ("decode", clip, "o.mp4")):
        code, _, err = inside(command, source, tmp_path / target, "--max-pixels", 116735)
        assert code == 3 and err.endswith("has pictures of 456x256, more than --max-pixels 116735\n")
        assert not list(tmp_path.iterdir())


def test_recovery_says_what_is_gone(tmp_path: Path) -> None:
    whole = tmp_path / "whole.vtk"
    assert inside("encode", LANES, whole, "--gop", "0.8", "-q")[0] == 0
    data = bytearray(whole.read_bytes())
    data[VtkReader(io.BytesIO(data)).index()[1].offset + 60] ^= 1
    damaged = tmp_path / "damaged.vtk"
    damaged.write_bytes(data)
    code, out, err = inside("decode", damaged, tmp_path / "o.mp4", "-q", "--recover")
    assert (code, out) == (5, "") and len(pixels_of(tmp_path / "o.mp4")) == 61
    first, last = err.splitlines()
    assert first.startswith(f"vtok: {damaged}: 0.68 s to 1.36 s are gone, 17 frames filled: a record is damaged")
    assert last == f"vtok: {damaged} is damaged: 1 part passed over"
    piped = vtok("decode", "-", tmp_path / "p.mp4", "--recover", stdin=bytes(data))
    assert text(piped)[0] == 3 and b"recover from damage needs a file" in piped.stderr


def test_binary_is_not_written_to_a_terminal(clip: Path) -> None:
    leader, follower = pty.openpty()
    for command in (["encode", str(LANES), "-"], ["decode", str(clip), "-"]):
        result = subprocess.run([*VTOK, *command], stdout=follower, stderr=subprocess.PIPE, timeout=300, check=False)
        assert result.returncode == 7
        assert result.stderr == b"vtok: will not write binary data to a terminal; redirect it, or name a file\n"
    os.close(follower)
    os.close(leader)


def test_waiting_for_a_pipe_can_be_interrupted(tmp_path: Path) -> None:
    command = [*VTOK, "encode", "-", str(tmp_path / "o.vtk")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 120
        while not list(tmp_path.iterdir()):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        assert process.stderr is not None and process.stderr.read() == b"vtok: interrupted\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "told", "code"),
    [
        (MemoryError(), "out of memory", 1),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 4 TB"), "out of memory", 1),
        (OSError(5, "Input/output error"), "cannot read or write: Input/output error", 7),
        (InputError("no video"), "no video", 3),
    ],
)
def test_one_input_that_fails_keeps_none_of_the_others(
    error: Exception, told: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[str] = []

    def work(source: str, target: str) -> None:
        if source == "bad":
            raise error
        done.append(source)

    with pytest.raises(typer.Exit) as ended:
        run_jobs([("a", "1"), ("bad", "2"), ("c", "3")], work)
    assert (ended.value.exit_code, done) == (code, ["a", "c"])
    assert told in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError):
        run_jobs([("a", "1"), ("c", "3")], lambda source, target: 1 // 0)


def test_a_name_taken_in_the_meantime_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the file system has no links."""
    target = tmp_path / "o.vtk"
    for linked in (True, False):
        if not linked:
            monkeypatch.setattr(os, "link", lambda *names: (_ for _ in ()).throw(PermissionError(1, "no links")))
        with pytest.raises(OutputError, match="exists"), whole_output(str(target), "-", force=False) as partial:
            partial.write_bytes(b"mine")
            target.write_bytes(b"another's")
        assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"another's"]
        with whole_output(str(target), "-", force=True) as partial:
            partial.write_bytes(b"mine")
        assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"mine"]
        target.unlink()
        with whole_output(str(target), "-", force=False) as partial:
            partial.write_bytes(b"mine")
        assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"mine"]
        target.unlink()


def test_a_name_that_is_no_utf8_is_printed(tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/caf\xe9.vtk"
    shutil.copy(GOLDEN, odd)
    for command in ("verify", "info"):
        run = [*VTOK, command, odd]
        strict = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
        result = subprocess.run(run, env=strict, capture_output=True, timeout=300, check=False)
        assert result.returncode == 0 and b"caf\\udce9.vtk" in result.stdout, result


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_reader_that_stalls_can_be_left(clip: Path, number: int, code: int) -> None:
    """The pipe is full, and nobody empties it."""
    command = [*VTOK, "decode", str(clip), "-", "-q"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read(1)
        time.sleep(2)
        process.send_signal(number)
        assert process.wait(timeout=60) == code
        assert process.stderr.read().decode() == f"vtok: {'interrupted' if number == signal.SIGINT else 'terminated'}\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_full_disk_is_told(clip: Path) -> None:
    for command in (["encode", str(LANES), "-", "-q"], ["info", str(GOLDEN)], ["decode", str(clip), "-", "-q"]):
        with open("/dev/full", "wb") as full:
            result = subprocess.run([*VTOK, *command], stdout=full, stderr=subprocess.PIPE, timeout=300, check=False)
        assert result.returncode == 7, command
        assert result.stderr.count(b"\n") == 1 and b"No space left" in result.stderr


def test_nothing_replaces_a_special_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npy")
    code, _, err = text(vtok("tokens", GOLDEN, tmp_path / "pipe.npy", "-f"))
    assert (code, err) == (7, f"vtok: {tmp_path}/pipe.npy is no regular file; write to '-' and redirect\n")
    target = tmp_path / "target.npy"
    target.write_bytes(b"")
    (tmp_path / "link.npy").symlink_to(target)
    assert vtok("tokens", GOLDEN, tmp_path / "link.npy", "-f").returncode == 0
    assert (tmp_path / "link.npy").is_symlink() and target.stat().st_size > 0


def test_an_empty_window_writes_nothing(clip: Path, tmp_path: Path) -> None:
    code, _, err = inside("decode", clip, tmp_path / "o.mp4", "--start", "100")
    assert (code, err) == (3, "vtok: no frame lies between the start and the end that were asked for\n")
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_leaves_is_no_crash(clip: Path) -> None:
    shell = f"{' '.join(VTOK)} decode {clip} - -q | head -c 1000 | wc -c; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, timeout=300, check=False)
    assert text(done) == (0, "1000\n141\n", "")


@pytest.fixture
def heard_hangup() -> Iterator[None]:
    """Under `nohup` a hangup is ignored, and would be by a command that is started here."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_an_interrupted_command_leaves_nothing(
    tmp_path: Path, number: int, code: int, ffmpeg: str, heard_hangup: None
) -> None:
    """A source without end, stopped once its output has begun to grow."""
    source = [
        ffmpeg,
        "-v",
        "error",
        "-re",
        "-f",
        "lavfi",
        "-i",
        "testsrc2=size=64x48",
        "-f",
        "nut",
        "-c:v",
        "ffv1",
        "-",
    ]
    with subprocess.Popen(source, stdout=subprocess.PIPE) as endless:
        command = [*VTOK, "encode", "-", str(tmp_path / "o.vtk"), "-q"]
        with subprocess.Popen(command, stdin=endless.stdout, stderr=subprocess.PIPE) as process:
            deadline = time.monotonic() + 120
            while not any(path.stat().st_size > 2000 for path in tmp_path.iterdir()):
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.1)
            process.send_signal(number)
            _, err = process.communicate(timeout=60)
        endless.kill()
    assert process.returncode == code
    assert err.decode() == f"vtok: {'interrupted' if number == signal.SIGINT else 'terminated'}\n"
    assert list(tmp_path.iterdir()) == []
