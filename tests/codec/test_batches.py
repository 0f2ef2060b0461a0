"""Batches of tensors give the tokens and pictures that single arrays give."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import LANES, pixels_of

import vtok_codec
from vtok_codec.errors import InputError, SettingError


@pytest.fixture(scope="module", params=["onevae-nano-4x8x8", "onevae-nano-4x16x16"])
def codec(request: pytest.FixtureRequest) -> vtok_codec.api.Codec:
    return vtok_codec.load(request.param, device="cpu")


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    whole = np.stack(pixels_of(Path(LANES))[:22])
    return np.stack([whole[:, :50, :70], whole[:, 60:110, 100:170], whole[:, 200:250, 300:370]])


def as_videos(frames: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(frames).permute(0, 4, 1, 2, 3)


def test_a_batch_has_the_tokens_of_each_video(codec: vtok_codec.api.Codec, frames: np.ndarray) -> None:
    expected = np.stack([codec.tokenize(video, tokens=2) for video in frames])
    tokens = codec.tokenize_batch(as_videos(frames), tokens=2)
    # Without bf16, the sums of a batch differ from those of a single video in their last bit.
    assert tokens.dtype == torch.int32 and (tokens.numpy() == expected).mean() > 0.999
    as_floats = codec.tokenize_batch(as_videos(frames).float() / 127.5 - 1, tokens=2)
    assert (as_floats == tokens).float().mean() > 0.999


def test_a_batch_decodes_to_the_pictures_of_each_gop(codec: vtok_codec.api.Codec, frames: np.ndarray) -> None:
    tokens = np.stack([codec.tokenize(video, tokens=2) for video in frames])
    videos = codec.detokenize_batch(torch.from_numpy(tokens.astype(np.int64)))
    assert videos.dtype == torch.float32 and float(videos.abs().max()) <= 1
    for video, gop in zip(videos, tokens, strict=True):
        expected = codec.detokenize(gop)
        shown = ((video.permute(1, 2, 3, 0) + 1) * 127.5).round().to(torch.uint8).numpy()
        # Without bf16, the sums of a batch differ from those of a single video in their last bit.
        assert np.abs(shown.astype(int) - expected).max() <= 1 and (shown == expected).mean() > 0.999


def test_codes_are_what_the_decoder_reads(codec: vtok_codec.api.Codec, frames: np.ndarray) -> None:
    tokens = codec.tokenize_batch(as_videos(frames), tokens=1)
    codes = codec.codes(tokens)
    assert codes.shape == (3, 6, *tokens.shape[1:4]) and float(codes.abs().max()) <= 1
    assert len(torch.unique(codes[:, 0])) <= 8
    other = codec.codes(tokens.roll(1, 0)).roll(-1, 0)
    assert torch.equal(codes, other)


def test_what_batches_give_can_enter_a_network_that_trains(codec: vtok_codec.api.Codec, frames: np.ndarray) -> None:
    """Autograd takes no tensors of inference mode."""
    videos = as_videos(frames[:1, :5])
    tokens, latents = codec.tokenize_batch(videos), codec.encode_latents(videos)
    table, layer = torch.nn.Embedding(64000, 2), torch.nn.Linear(latents.shape[1], 2)
    total = table(tokens).sum() + layer(latents.movedim(1, -1)).sum()
    scale = torch.ones((), requires_grad=True)
    total = total + (scale * codec.detokenize_batch(tokens)).sum() + (scale * codec.decode_latents(latents)).sum()
    total.backward()
    assert table.weight.grad is not None and layer.weight.grad is not None and scale.grad is not None
    assert not tokens.is_inference() and not latents.requires_grad


def test_latents_round_to_the_codes_of_the_tokens(codec: vtok_codec.api.Codec, frames: np.ndarray) -> None:
    videos = as_videos(frames)
    latents, codes = codec.encode_latents(videos), codec.codes(codec.tokenize_batch(videos, tokens=4))
    assert latents.dtype == torch.float32 and latents.shape == codes.shape
    levels = torch.tensor([8, 8, 8, 5, 5, 5] * 4).view(1, -1, 1, 1, 1)
    assert torch.equal((latents * (levels // 2)).round() / (levels // 2), codes)
    assert not torch.equal(latents, codes)
    assert torch.equal(codec.encode_latents(videos, tokens=1), latents[:, :6])


def test_latents_decode_without_rounding(codec: vtok_codec.api.Codec, frames: np.ndarray) -> None:
    """Codes decode as their tokens do, and latents to a picture that is no worse."""
    videos = as_videos(frames)
    tokens = codec.tokenize_batch(videos, tokens=2)
    assert torch.equal(codec.decode_latents(codec.codes(tokens)), codec.detokenize_batch(tokens))
    source = videos.float() / 127.5 - 1
    rounded, exact = codec.detokenize_batch(tokens), codec.decode_latents(codec.encode_latents(videos, tokens=2))
    errors = [float((each[:, :, :22, :50, :70] - source).square().mean()) for each in (rounded, exact)]
    assert errors[1] < errors[0]


@pytest.mark.parametrize("shape", [(1, 6, 8, 2), (1, 7, 8, 2, 2), (1, 30, 8, 2, 2), (0, 6, 8, 2, 2), (1, 6, 0, 2, 2)])
def test_wrong_latents_are_refused(codec: vtok_codec.api.Codec, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError):
        codec.decode_latents(torch.zeros(shape))
    with pytest.raises(InputError, match="torch tensor"):
        codec.decode_latents(np.zeros(shape))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="torch tensor"):
        codec.encode_latents(np.zeros((1, 3, 5, 16, 16)))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="floats"):
        codec.decode_latents(torch.zeros(1, 6, 8, 2, 2, dtype=torch.int32))


@pytest.mark.parametrize(
    ("shape", "kind", "message"),
    [
        ((1, 3, 4, 8), torch.uint8, "B 3 T H W"),
        ((1, 4, 4, 8, 8), torch.uint8, "B 3 T H W"),
        ((1, 3, 4, 8, 8), torch.int64, "floats"),
    ],
)
def test_other_videos_are_refused(
    codec: vtok_codec.api.Codec, shape: tuple[int, ...], kind: torch.dtype, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        codec.tokenize_batch(torch.zeros(shape, dtype=kind))


@pytest.mark.parametrize("value", [200.0, -2.0, float("nan")])
def test_floats_in_another_range_are_refused(codec: vtok_codec.api.Codec, value: float) -> None:
    videos = torch.zeros(2, 3, 5, 16, 16)
    videos[1, 0, 2, 3, 4] = value
    with pytest.raises(InputError, match=r"floats must be in \[−1, 1\]"):
        codec.tokenize_batch(videos)
    with pytest.raises(InputError, match="floats must be in"):
        codec.encode_latents(videos)
    latents = codec.encode_latents(torch.zeros(1, 3, 1, 16, 16)).clone()
    latents[0, 1, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="is not a number from"):
        codec.decode_latents(latents)


@pytest.mark.parametrize("wrong", [np.zeros((1, 8, 4, 4, 2), np.int64), torch.tensor(1)])
def test_what_is_no_batch_of_tokens_is_refused(codec: vtok_codec.api.Codec, wrong: object) -> None:
    for call in (codec.codes, codec.detokenize_batch):
        with pytest.raises(InputError, match="tokens must be"):
            call(wrong)  # type: ignore[arg-type]


def test_other_tokens_are_refused(codec: vtok_codec.api.Codec) -> None:
    whole = torch.zeros(1, 8, 4, 4, 2, dtype=torch.int64)
    for wrong in (whole[0], whole.float(), whole - 1, whole + 64_000, torch.zeros(1, 8, 4, 4, 5, dtype=torch.int64)):
        with pytest.raises(InputError):
            codec.detokenize_batch(wrong)
        with pytest.raises(InputError):
            codec.codes(wrong)
    with pytest.raises(SettingError, match="1 to 4 tokens"):
        codec.tokenize_batch(torch.zeros(1, 3, 4, 8, 8), tokens=5)


def test_autocast_around_a_call_changes_nothing(codec: vtok_codec.api.Codec, frames: np.ndarray) -> None:
    """A training loop tokenizes inside of it."""
    videos = as_videos(frames)[:1]
    tokens = codec.tokenize_batch(videos)
    shown = codec.detokenize(tokens[0].numpy().astype(np.uint16))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(codec.tokenize_batch(videos), tokens)
        assert np.array_equal(codec.tokenize(frames[0]), tokens[0].numpy())
        assert np.array_equal(codec.detokenize(tokens[0].numpy().astype(np.uint16)), shown)
        assert codec.encode_latents(videos).dtype == torch.float32


def test_after_a_fork_every_batch_is_refused(codec: vtok_codec.api.Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """And before torch does anything in its threads, which would wait without end."""
    videos, tokens = torch.zeros(1, 3, 5, 32, 32), torch.zeros(1, 9, 2, 2, 1, dtype=torch.int32)
    latents = torch.zeros(1, 6, 9, 2, 2)
    monkeypatch.setattr(codec.tokenizer, "_process", 1)
    for forbidden in ("aminmax", "abs", "min"):
        monkeypatch.setattr(torch.Tensor, forbidden, lambda *_: pytest.fail("torch computes"))
    for use in (
        lambda: codec.tokenize_batch(videos),
        lambda: codec.encode_latents(videos),
        lambda: codec.decode_latents(latents),
        lambda: codec.detokenize_batch(tokens),
        lambda: codec.codes(tokens),
    ):
        with pytest.raises(SettingError, match="after a fork; start the process by 'spawn'"):
            use()


def test_a_codec_is_loaded_anew_in_another_process(codec: vtok_codec.api.Codec, frames: np.ndarray) -> None:
    other = pickle.loads(pickle.dumps(codec))
    assert other is not codec and np.array_equal(other.tokenize(frames[0]), codec.tokenize(frames[0]))


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.complex64])
def test_tensors_of_other_kinds_are_refused(codec: vtok_codec.api.Codec, kind: torch.dtype) -> None:
    with pytest.raises(InputError, match="must be uint8 or floats"):
        codec.tokenize_batch(torch.zeros(1, 3, 5, 32, 32).to(kind))
    with pytest.raises(InputError, match="must be floats"):
        codec.decode_latents(torch.zeros(1, 6, 9, 2, 2).to(kind))


def test_a_number_of_frames_stays_as_it_was(codec: vtok_codec.api.Codec) -> None:
    wanted = np.array(3)
    tokens = np.zeros((codec.tokenizer.layout.phases + 1, 2, 2, 1), np.uint16)
    assert len(codec.detokenize(tokens, frames=wanted)) == 3 and wanted == 3
    for gop in (1.5, -1, "x"):
        with pytest.raises(SettingError, match="gop"):
            codec.detokenize(tokens, gop=gop)


class Dribbling(io.RawIOBase):
    """A stream that takes a few bytes at a time."""

    def __init__(self) -> None:
        self.data = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        part = bytes(data[:7])
        self.data += part
        return len(part)


def test_a_stream_may_take_parts_and_must_be_open(codec: vtok_codec.api.Codec, tmp_path: Path) -> None:
    tokens = np.zeros((codec.tokenizer.layout.phases + 1, 2, 2, 1), np.uint16)
    slow, whole = Dribbling(), io.BytesIO()
    codec.pack([tokens], slow)
    codec.pack([tokens], whole)
    assert slow.data == whole.getvalue()
    (tmp_path / "there").touch()
    closed = io.BytesIO()
    closed.close()
    for stream in (io.StringIO(), closed, (tmp_path / "there").open("rb")):
        with pytest.raises(InputError, match="stream"):
            codec.pack([tokens], stream)
