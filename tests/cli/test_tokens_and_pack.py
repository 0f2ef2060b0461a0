"""`vtok tokens` and `vtok pack`."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from command_helpers import GOLDEN, make_still, vtok
from cost import Attack
from helpers import DATA, inside, pixels_of
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from vtok_codec.container.reader import VtkReader
from vtok_codec.errors import InputError
from vtok_codec.prior_files import find_prior
from vtok_codec.stream.arrays import read_array
from vtok_codec.stream.reading import read_tokens
from vtok_codec.tokens.coders import ZSTD


def test_tokens_are_exported(tmp_path: Path) -> None:
    wanted = np.load(DATA / "golden-1.0.npy")
    assert inside("tokens", GOLDEN, tmp_path / "t.npy") == (0, "", "")
    assert inside("tokens", GOLDEN, tmp_path / "t.safetensors", "--gop", "1") == (0, "", "")
    assert np.array_equal(np.load(tmp_path / "t.npy"), wanted)
    assert np.array_equal(load_file(tmp_path / "t.safetensors")["tokens"], wanted[3:])
    code, _, err = inside("tokens", GOLDEN, tmp_path / "u.npy", "--gop", "2")
    assert (code, err) == (3, "vtok: there is no GOP 2; the file has 2\n")
    assert not (tmp_path / "u.npy").exists()


def test_an_array_larger_than_its_limit_is_refused(tmp_path: Path) -> None:
    """Small files may declare very many tokens, since zeros pack well."""
    bomb = tmp_path / "bomb.vtk"
    bomb.write_bytes(Attack(ZSTD, (8, 8), 1, (1, 8, 8), (2048, 2048), 9, 1).file())
    assert bomb.stat().st_size < 1 << 17
    for name, options in (("all.npy", []), ("one.npy", ["--gop", "0"])):
        code, _, err = inside("tokens", bomb, tmp_path / name, "--max-mib", "1", *options)
        assert code == 3 and "--max-mib" in err and err.count("\n") == 1
        assert not (tmp_path / name).exists()
        assert inside("tokens", bomb, tmp_path / name, "--max-mib", "2", *options) == (0, "", "")


def test_the_limit_counts_all_groups_of_pictures(clip: Path) -> None:
    whole = read_tokens(io.BytesIO(clip.read_bytes()), find_prior)
    assert np.array_equal(read_tokens(io.BytesIO(clip.read_bytes()), find_prior, max_bytes=whole.nbytes), whole)
    with pytest.raises(InputError, match="more memory than allowed"):
        read_tokens(io.BytesIO(clip.read_bytes()), find_prior, max_bytes=whole.nbytes - 1)


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
    code, _, told = inside("pack", tmp_path / "made.npy", tmp_path / "made.vtk", "--rate", "29.97")
    guess = "taken as one group of pictures of onevae-nano-4x8x8, 9 frames of 40x32"
    assert code == 0 and told == f"vtok: {tmp_path}/made.npy says nothing of its video; {guess}\n"
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
    assert (info.sar, info.color, info.rotation) == (header.sar, header.color, header.rotation)
    assert [frames for _, frames in array.gops()] == [9, 3]
    still = make_still(tmp_path)
    assert inside("tokens", still, tmp_path / "s.safetensors")[0] == 0
    assert inside("pack", tmp_path / "s.safetensors", tmp_path / "s.vtk") == (0, "", "")
    assert json.loads(inside("info", "--json", tmp_path / "s.vtk")[1])["rate"] is None


@pytest.mark.parametrize("rate", ["1000003/333667", "1/3600", "2000000", "30000/1001", "still"])
def test_the_rate_of_a_file_stays_as_it_is(tmp_path: Path, rate: str) -> None:
    """Even where no user would give such a one."""
    about = {"model": "onevae-nano-4x8x8", "rate": rate, "gop_frames": "1"}
    save_file({"tokens": np.zeros((1, 2, 2, 1), np.uint16)}, tmp_path / "a.safetensors", about)
    assert inside("pack", tmp_path / "a.safetensors", tmp_path / "a.vtk") == (0, "", "")
    assert inside("tokens", tmp_path / "a.vtk", tmp_path / "b.safetensors") == (0, "", "")
    with safe_open(tmp_path / "b.safetensors", "np") as file:
        assert file.metadata()["rate"] == rate


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
        "negative.safetensors": {"gop_latents": "6 -1"},
        "large.safetensors": {"gop_latents": "9" * 4000},
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
        "size.safetensors": (3, "a size of 9x9"),
        "side.safetensors": (3, "size 'high' is no list of 2 integers"),
        "gops.safetensors": (3, "gop_latents sum up to 3"),
        "negative.safetensors": (3, "a GOP has at least 1 latent frame"),
        "large.safetensors": (3, "is no list of integers below 2³¹"),
        "short.safetensors": (3, "gop_frames has 1 numbers"),
        "long.safetensors": (3, "rate '1e999999999': give frames per second"),
        "path.safetensors": (6, "is here; 'vtok models' lists"),
        "escape.safetensors": (6, "made with weights '\\x1b[2J'"),
        "zip.npy": (3, "can be read"),
        "huge.npy": (3, "can be read"),
        "open.npy": (3, "can be read"),
        "-": (3, "cannot be read from standard input"),
        "frames.safetensors": (3, "frames, not 99"),
        "rate.safetensors": (3, "rate 'fast': give frames per second"),
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
    assert code == 2 and "rate '0': give frames per second" in err
    assert sorted(tmp_path.iterdir()) == before


def test_1d_tokens_are_told_to_be_left_out(tmp_path: Path) -> None:
    code, out, err = inside("tokens", DATA / "golden-window-tokens-2.0.vtk", tmp_path / "t.npy")
    assert (code, out) == (0, "") and "1D tokens are left out" in err and (tmp_path / "t.npy").exists()
