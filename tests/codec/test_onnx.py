"""ONNX Runtime decodes what torch decodes, without torch, and graphs are tied to their weights."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from helpers import DATA, SMALL_LANES, TINY, inside, pixels_of, randomized

from vtok_codec import registry
from vtok_codec.codec.onnx_decoder import OnnxDecoder
from vtok_codec.codec.tokenizer import Placement, Tokenizer
from vtok_codec.errors import ModelError
from vtok_codec.files import exclusive
from vtok_codec.models.onevae import OneVAE
from vtok_codec.models.onnx_parts import METADATA_KEY, CodecPart, about_from_metadata, graph_path
from vtok_codec.models.weights import CODEC, build, dump_weights
from vtok_codec.registry import find_weights
from vtok_codec.weights_file import WeightsFile

MODELS = ["onevae-nano-4x8x8", "onevae-nano-4x16x16"]
EXACT = Placement(torch.device("cpu"), torch.float32)


def digits_of(weights: WeightsFile, rows: int, columns: int, latents: int, seed: int = 0) -> np.ndarray:
    """Random digits `P t h w` of all tokens."""
    config = weights.codec_config
    levels = np.array(config.fsq_levels * config.max_tokens).reshape(-1, 1, 1, 1)
    drawn = np.random.default_rng(seed).integers(0, 1 << 20, (len(levels), latents, rows, columns))
    return (drawn % levels).astype(np.uint8)


@cache
def by_torch(model: str) -> Tokenizer:
    """A shipped model in fp32."""
    return Tokenizer(find_weights(model), EXACT)


@cache
def by_onnx(model: str) -> OnnxDecoder:
    """The decoder of a shipped model, on one thread."""
    return OnnxDecoder(find_weights(model), threads=1)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("grid", "tokens"), [((4, 6), 1), ((5, 3), 4), ((1, 1), 2), ((1, 7), 3)])
def test_shipped_graphs_decode_as_torch_does(model: str, grid: tuple[int, int], tokens: int) -> None:
    """In fp32 as well, they are at most one of 255 levels apart, where rounding falls the other way."""
    weights, torchs, onnxs = find_weights(model), by_torch(model), by_onnx(model)
    digits = digits_of(weights, *grid, latents=9)[: 6 * tokens]
    size = weights.codec_config.layout.picture(*grid)
    size = (size[0] - 1, size[1] - 3)
    frames = weights.codec_config.layout.frames(9, first=True) - 2
    expected, _ = torchs.decode(digits, size, frames, None)
    got, _ = onnxs.decode(digits, size, frames, None)
    assert got.shape == expected.shape == (frames, *size, 3) and got.dtype == np.uint8
    apart = np.abs(got.astype(int) - expected)
    assert apart.max() <= 1 and (apart > 0).mean() < 1e-3


@pytest.mark.parametrize("model", MODELS)
def test_neither_pieces_nor_threads_change_the_frames(model: str) -> None:
    weights = find_weights(model)
    digits, layout = digits_of(weights, 4, 5, latents=9), weights.codec_config.layout
    size, frames = layout.picture(4, 5), layout.frames(9, first=True)
    whole, _ = by_onnx(model).decode(digits, size, frames, None)
    two = OnnxDecoder(weights, threads=2)
    parts, state, begin, shown = [], None, 0, 0
    for end in (layout.phases, layout.phases + 1, 9):
        count = layout.frames(end, first=True) - shown
        pixels, state = two.decode(digits[:, begin:end], size, count, state)
        parts.append(pixels)
        begin, shown = end, shown + count
    assert np.array_equal(np.concatenate(parts), whole)


def test_decode_with_the_engine_onnx(tmp_path: Path) -> None:
    made, by_torch, by_onnx = tmp_path / "made.vtk", tmp_path / "torch.mkv", tmp_path / "onnx.mkv"
    assert inside("encode", SMALL_LANES, made, "--duration", 1, "-q") == (0, "", "")
    assert inside("decode", made, by_torch, "--codec", "ffv1", "-q") == (0, "", "")
    code, _, told = inside("decode", made, by_onnx, "--codec", "ffv1", "--engine", "onnx", "-v")
    assert code == 0 and "on ONNX Runtime" in told
    one, other = (np.stack(pixels_of(path)).astype(float) for path in (by_torch, by_onnx))
    error = np.square(one - other).mean()
    assert one.shape == other.shape and 10 * np.log10(255**2 / error) > 45


@pytest.mark.parametrize(
    ("code", "words", "options"),
    [
        (2, "deterministic decoder on the CPU only", ["--decoder", "ddim"]),
        (2, "deterministic decoder on the CPU only", ["--device", "cuda"]),
        (2, "use auto, torch or onnx", ["--engine", "tensorrt"]),
        (6, "was made with weights", ["--weights", "cdt-nano-4x8x8"]),
    ],
)
def test_what_the_engine_lacks_is_told(tmp_path: Path, code: int, words: str, options: list[str]) -> None:
    made = tmp_path / "made.vtk"
    assert inside("encode", SMALL_LANES, made, "--duration", 0.2, "-q") == (0, "", "")
    got, out, told = inside("decode", made, tmp_path / "out.mp4", "--engine", "onnx", *options)
    assert (got, out) == (code, "") and words in told and told.count("\n") == 1
    assert not (tmp_path / "out.mp4").exists()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The folder of a small exported codec, whose weights are `tiny.safetensors`.

    It has first-frame enhancement, so that every kind of graph is there. Processes that share the tests share the
    folder, since an export takes a minute.
    """
    root = tmp_path_factory.getbasetemp()
    folder = (root if worker_id == "master" else root.parent) / "exported"
    folder.mkdir(exist_ok=True)
    config = replace(TINY, enhanced_first_frame=True)
    with exclusive(folder / "lock", wait=True):
        if not (folder / "out" / "tiny.json").exists():
            (folder / "tiny.safetensors").write_bytes(dump_weights(randomized(OneVAE(config)), config, {}))
            code, _, told = inside("export", folder / "tiny.safetensors", folder / "out")
            assert code == 0 and "opset" in told
    return folder / "out"


def test_an_export_lists_its_files(exported: Path) -> None:
    about = json.loads((exported / "tiny.json").read_text())
    weights = WeightsFile("tiny", exported / "tiny.safetensors")
    assert about["weights_sha256"] == weights.sha256
    names = {path.name for path in exported.iterdir()} - {"tiny.json"}
    assert set(about["files"]) == names
    for name, entry in about["files"].items():
        data = (exported / name).read_bytes()
        assert entry["sha256"] == hashlib.sha256(data).hexdigest() and entry["bytes"] == len(data)
        if "operators" in entry:
            graph = onnx.load_model_from_string(data)
            assert sum(entry["operators"].values()) == len(graph.graph.node)
            assert {opset.version for opset in graph.opset_import} == {about["opset"]}
            # Its weights stay where they are: what it holds itself are a few small tensors.
            assert len(data) < 100_000 and str(Path.home()).encode() not in data and b".py" not in data


def test_an_exported_codec_decodes_its_files(exported: Path, tmp_path: Path) -> None:
    weights = WeightsFile("tiny", exported / "tiny.safetensors")
    digits, layout = digits_of(weights, 3, 4, latents=8), weights.codec_config.layout
    size, frames = layout.picture(3, 4), layout.frames(8, first=True)
    expected, _ = Tokenizer(weights, EXACT).decode(digits, size, frames, None)
    got, _ = OnnxDecoder(weights).decode(digits, size, frames, None)
    assert np.abs(got.astype(int) - expected).max() <= 1
    made = tmp_path / "made.vtk"
    options = ("--weights", exported / "tiny.safetensors", "--engine", "onnx", "-q")
    assert inside("encode", "--model", exported / "tiny.safetensors", SMALL_LANES, made, "-q") == (0, "", "")
    assert inside("decode", made, tmp_path / "out.mp4", *options) == (0, "", "")
    assert len(pixels_of(tmp_path / "out.mp4")) == 61


def test_exported_encoders_make_the_same_digits(exported: Path) -> None:
    """Up to the few that lie between two values."""
    weights = WeightsFile("tiny", exported / "tiny.safetensors")
    layout = weights.codec_config.layout
    height, width = layout.picture(3, 4)
    frames = np.stack(pixels_of(SMALL_LANES))[:9, :height, :width]
    expected, _ = Tokenizer(weights, EXACT).encode(frames, 4, None)
    filled = np.concatenate([np.repeat(frames[:1], layout.repeated_frames, 0), frames])
    first = CodecPart.FIRST_ENCODER if layout.phases > 1 else CodecPart.ENCODER
    parts: list[np.ndarray] = []
    state: list[np.ndarray] = []
    for begin in range(0, len(filled), layout.stride[0]):
        part = CodecPart.ENCODER if begin else first
        session = onnxruntime.InferenceSession(graph_path(exported / "tiny.safetensors", part))
        about = about_from_metadata(session.get_modelmeta().custom_metadata_map, "here")
        if not begin and not part.is_first:
            state = [np.zeros((1, s.channels, s.frames, 3 * s.rows, 4 * s.columns), np.float32) for s in about.states]
        inputs = {"pixels": filled[begin : begin + layout.stride[0]]}
        inputs |= {f"state_{number}": each for number, each in enumerate(state)} if not part.is_first else {}
        digits, *state = session.run(None, inputs)
        parts.append(digits[0])
    got = np.concatenate(parts, axis=1)
    assert got.shape == expected.shape and (got != expected).mean() < 0.002


def test_graphs_of_other_weights_are_refused(exported: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    weights = WeightsFile("tiny", copy / "tiny.safetensors")
    config = weights.codec_config
    (copy / "tiny.safetensors").write_bytes(dump_weights(randomized(OneVAE(config), seed=1), config, {}))
    with pytest.raises(ModelError, match="made of other weights"):
        OnnxDecoder(WeightsFile("tiny", copy / "tiny.safetensors"))


def test_weights_that_read_the_same_tokens_need_graphs_of_their_own(exported: Path, tmp_path: Path) -> None:
    """A graph names places in one file. In another, other values lie there."""
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    weights = WeightsFile("tiny", copy / "tiny.safetensors")
    model = build(CODEC, weights)
    said = {"reads": weights.sha256, "note": "longer metadata"}
    (copy / "tiny.safetensors").write_bytes(dump_weights(model, weights.config, said))
    with pytest.raises(ModelError, match="made of other weights"):
        OnnxDecoder(WeightsFile("tiny", copy / "tiny.safetensors"))


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "foreign", "listed"])
def test_graphs_that_cannot_be_used_are_told(exported: Path, tmp_path: Path, damage: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    graph = graph_path(copy / "tiny.safetensors", CodecPart.DECODER)
    data = graph.read_bytes()
    if damage != "listed":
        (copy / "tiny.json").unlink()
    if damage == "listed":
        # One bit, and the list of the export knows.
        graph.write_bytes(bytes([*data[:500], data[500] ^ 1, *data[501:]]))
    elif damage == "missing":
        graph.unlink()
    elif damage == "foreign":
        proto = onnx.load_model_from_string(data)
        proto.metadata_props[0].value = '{"version": 1}'
        graph.write_bytes(proto.SerializeToString())
    else:
        graph.write_bytes(b"" if damage == "empty" else data[: len(data) // 2])
    with pytest.raises(ModelError, match=r"vtok export|cannot be used|is damaged") as told:
        OnnxDecoder(WeightsFile("tiny", copy / "tiny.safetensors"))
    assert "\n" not in str(told.value)


def test_shipped_graphs_with_a_flipped_bit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = DATA.parent.parent / "weights"
    for path in (*shipped.glob("onevae-nano-4x8x8.*"), shipped / "SHA256SUMS"):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(registry, "_FOLDERS", (tmp_path,))
    weights = find_weights("onevae-nano-4x8x8")
    OnnxDecoder(weights)
    graph = graph_path(weights.path, CodecPart.DECODER)
    data = bytearray(graph.read_bytes())
    data[1000] ^= 1
    graph.write_bytes(data)
    with pytest.raises(ModelError, match="is damaged"):
        OnnxDecoder(weights)


def test_exports_overwrite_nothing_unasked(exported: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "tiny.safetensors").write_bytes(b"of somebody else")
    weights = exported / "tiny.safetensors"
    cases = [
        (7, "tiny.safetensors exists", [weights, copy]),
        (7, "cannot make the folder", [weights, copy / "tiny.safetensors" / "b"]),
        (6, "is no codec", ["cdt-nano-4x8x8", tmp_path / "never"]),
        (6, "holds no vtok model", ["prior-onevae-nano-4x8x8", tmp_path / "never"]),
    ]
    for code, words, arguments in cases:
        got, out, told = inside("export", *arguments)
        assert (got, out) == (code, "") and words in told and told.count("\n") == 1, told
    assert (copy / "tiny.safetensors").read_bytes() == b"of somebody else" and not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {METADATA_KEY: "no JSON"},
        {METADATA_KEY: "[]"},
        {METADATA_KEY: '{"version": 2}'},
        {METADATA_KEY: "[" * 100_000},
        {METADATA_KEY: '{"version": 1, "states": [], "part": "decoder", "latent_channels": Infinity}'},
        {METADATA_KEY: '{"version": 1, "states": [{"channels": 0, "frames": 1, "rows": 1, "columns": 1}]}'},
        {METADATA_KEY: '{"version": 1, "states": [], "part": "middle", "latent_channels": 1, "weights_sha256": ""}'},
    ],
)
def test_metadata_that_are_not_ours_are_refused(metadata: dict[str, str]) -> None:
    with pytest.raises(ModelError):
        about_from_metadata(metadata, "here")
