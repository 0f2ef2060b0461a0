"""The interface of codecs that are compared, and vtok models behind it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Protocol

from vtok_codec.codec.decoder import decode_events
from vtok_codec.codec.decoders import Decoders, OtherDecoder
from vtok_codec.codec.distortion import make_distortion
from vtok_codec.codec.encoder import encode_video
from vtok_codec.codec.onedva_decoder import OneDVADecoder
from vtok_codec.codec.pixel_decoder import DecoderChoice
from vtok_codec.codec.tokenizer import Tokenizer
from vtok_codec.container.reader import VtkReader
from vtok_codec.errors import ModelError, SettingError
from vtok_codec.evaluation.anchors import ANCHORS
from vtok_codec.evaluation.clips import SourceClip
from vtok_codec.evaluation.usage import Cost, measured
from vtok_codec.media.reader import VideoReader
from vtok_codec.media.types import Frame, Pixels
from vtok_codec.registry import DETERMINISTIC
from vtok_codec.stream.effort import DEFAULT_EFFORT, DEFAULT_TUNE, find_effort, find_tune
from vtok_codec.stream.settings import (
    EncodeSettings,
    check_effort,
    check_rdo,
    check_stickiness,
    check_token_count,
    check_tune,
)
from vtok_codec.text import counted


class CodecUnderTest(Protocol):
    """A codec at one operating point."""

    @property
    def name(self) -> str:
        """The name of the codec, which has one curve in a plot."""

    @property
    def setting(self) -> str:
        """The name of the operating point, which is one point of the codec's curve."""

    @property
    def suffix(self) -> str:
        """The suffix of the files that the codec writes, with its dot."""

    @property
    def description(self) -> str:
        """One line for reports about the codec and how it is measured."""

    @property
    def identity(self) -> dict[str, str]:
        """Everything that results depend on, apart from the clip and the measures."""

    @property
    def is_anchor(self) -> bool:
        """Whether the codec is an anchor, which vtok models are compared with."""

    def encode(self, clip: SourceClip, target: Path) -> Cost:
        """Encode the video of a clip, without audio, into a file."""

    def decode(self, coded: Path) -> Cost:
        """Decode a file to RGB without keeping the frames, to measure the cost."""

    def frames(self, coded: Path) -> Iterator[Pixels]:
        """Yield the decoded frames, uint8 RGB `H W 3`, which may be padded to a larger size than the clip's."""


@dataclass(frozen=True)
class VtokCodec:
    """A vtok model at one operating point, decoded by its own decoder or by another one."""

    tokenizer: Tokenizer
    """The model."""
    tokens_per_position: int
    """Tokens written per latent position."""
    name: str
    """The name in tables, which differs between models and between decoders."""
    stickiness: float = 0.0
    """How far beyond half a step a latent may move before its digit changes; see `EncodeSettings`."""
    decoder: OtherDecoder | None = None
    """The decoder; None for the model's own one."""
    rdo: float = 0.0
    """What a bit costs when digits are chosen by rate and error; see `EncodeSettings`."""
    effort: str = DEFAULT_EFFORT
    """How much work the choice of digits is worth, one of `EFFORTS`."""
    tune: str = DEFAULT_TUNE
    """What the effort is for, one of `TUNES`."""
    window_tokens: str = ""
    """How many 1D tokens each window gets; see `EncodeSettings`."""
    suffix = ".vtk"
    """The suffix of the files that the codec writes."""
    is_anchor = False
    """A vtok model is not an anchor."""

    @property
    def setting(self) -> str:
        """The number of tokens per position, and what else was set, such as `2 tokens, δ 0.05` or `1 token, slow`."""
        parts = [counted(self.tokens_per_position, "token")]
        parts += [f"{self.window_tokens or 'all'} 1D"] if self.tokenizer.onedva else []
        parts += [f"δ {self.stickiness:g}"] if self.stickiness else []
        parts += [f"λ {self.rdo:g}"] if self.rdo else []
        parts += [self.effort] if self.effort != DEFAULT_EFFORT else []
        parts += [f"tune {self.tune}"] if self.tune != DEFAULT_TUNE else []
        return ", ".join(parts)

    @property
    def description(self) -> str:
        """The weights, the device and what seconds and memory include, as one line for reports."""
        weights, where = self.tokenizer.id.weights_sha256[:12], self.tokenizer.placement
        if self.decoder:
            weights += f" decoded by {self.decoder.description}"
        return f"{self.name}: weights {weights}, {where}; seconds without start-up, memory of the whole process"

    @property
    def identity(self) -> dict[str, str]:
        """Everything that results depend on, apart from the clip and the measures."""
        placement = self.tokenizer.placement
        return {
            "weights": self.tokenizer.id.weights_sha256,
            "tokens": str(self.tokens_per_position),
            "stickiness": str(self.stickiness),
            "rdo": str(self.rdo),
            "effort": repr(find_effort(self.effort)),
            "tune": repr(find_tune(self.tune)),
            "prior": self.tokenizer.prior.sha256 if self.tokenizer.prior else "",
            "placement": f"{placement.device} {placement.dtype}",
            **self._windows_identity,
        } | (self.decoder.identity if self.decoder else {})

    @property
    def _windows_identity(self) -> dict[str, str]:
        """What 1D tokens depend on."""
        onedva = self.tokenizer.onedva
        return {"window_tokens": self.window_tokens, "onedva": onedva.header.weights_sha256} if onedva else {}

    def encode(self, clip: SourceClip, target: Path) -> Cost:
        """Encode the video of a clip, without audio, into a file.

        Raises:
            InputError: The clip cannot be read to its end.
        """
        settings = EncodeSettings(
            self.tokens_per_position,
            stickiness=self.stickiness,
            rdo=self.rdo,
            effort=self.effort,
            tune=self.tune,
            window_tokens=self.window_tokens,
        )
        with measured() as cost, VideoReader(clip.path, audio=False) as reader, target.open("wb") as stream:
            summary = encode_video(reader.info, reader.events(), self.tokenizer, settings, stream)
        if summary.failure:
            raise summary.failure
        return cost

    def warm_up(self) -> None:
        """Encode and decode a small picture, so that timings do not include what torch sets up at its first use."""
        self.tokenizer.warm_up()
        make_distortion(find_tune(self.tune), self.tokenizer.placement)
        if self.decoder:
            self.decoder.warm_up()

    def decode(self, coded: Path) -> Cost:
        """Decode a file to RGB without keeping the frames, to measure the cost."""
        with measured() as cost:
            for _ in self.frames(coded):
                pass
        return cost

    def frames(self, coded: Path) -> Iterator[Pixels]:
        """Yield the decoded frames, uint8 RGB `H W 3`."""
        with coded.open("rb") as stream:
            for event in decode_events(VtkReader(stream), self.decoder or self.tokenizer):
                if isinstance(event, Frame):
                    yield event.pixels


def model_codecs(
    tokenizers: Sequence[Tokenizer],
    counts: Sequence[int],
    stickinesses: Sequence[float] = (0.0,),
    decoders: Sequence[str] = (DETERMINISTIC,),
    rdos: Sequence[float] = (0.0,),
    efforts: Sequence[str] = (DEFAULT_EFFORT,),
    tunes: Sequence[str] = (DEFAULT_TUNE,),
    window_tokens: Sequence[str] = ("",),
) -> list[VtokCodec]:
    """Combine each model with each decoder that fits it, each number of tokens, and each of the other settings.

    A model with 1D tokens has one token per position and each choice of `window_tokens`; it takes no effort, no
    tune and no stickiness.

    Args:
        tokenizers: The models.
        counts: The numbers of tokens per position.
        stickinesses: The values of `EncodeSettings.stickiness`.
        rdos: The values of `EncodeSettings.rdo`.
        efforts: The values of `EncodeSettings.effort`.
        tunes: The values of `EncodeSettings.tune`.
        window_tokens: The values of `EncodeSettings.window_tokens`, for models with 1D tokens.
        decoders: The decoders, each as in `DecoderChoice.name`. A number of steps may follow a colon, such as `ddim:2`.

    Returns:
        The codecs. Those of different models, decoders, efforts, tunes or stickinesses have different names.

    Raises:
        SettingError: A model has fewer tokens, a setting is out of range, two do not go together, or the deterministic
            decoder is given steps.
        ModelError: A model has the name of an anchor, or a decoder fits none of the models.
    """
    for delta in stickinesses:
        check_stickiness(delta)
    for rdo in rdos:
        check_rdo(rdo)
    for effort, delta in product(efforts, stickinesses):
        check_effort(effort, delta)
    for tune, effort in product(tunes, efforts):
        check_tune(tune, effort)
    if any(window_tokens) and not any(tokenizer.onedva for tokenizer in tokenizers):
        raise SettingError("window tokens: none of the models has 1D tokens")
    if any(rdos) and (lacking := [each for each in tokenizers if not each.prior and not each.onedva]):
        raise SettingError(f"rdo: {lacking[0].id.name} has no prior, without which tokens have no cost; leave it out")
    names = _names(tokenizers)
    codecs = []
    for tokenizer, decoder, loaded in _pairs(tokenizers, decoders):
        name = names[id(tokenizer)]
        titled = name if decoder == DETERMINISTIC else f"{name} {_short(decoder, decoders)}"
        if tokenizer.onedva:
            # Other decoders do not read 1D tokens, so the file has none.
            choices = window_tokens if isinstance(loaded, OneDVADecoder) else ("0",)
            codecs += _with_windows(VtokCodec(tokenizer, 1, titled, decoder=loaded), rdos, choices)
            continue
        for count in counts:
            check_token_count(count, tokenizer.max_tokens, name)
            codecs += [
                VtokCodec(tokenizer, count, titled, delta, loaded, rdo, effort, tune)
                for delta, rdo, effort, tune in product(stickinesses, rdos, efforts, tunes)
            ]
    several = len(stickinesses) > 1, len(efforts) > 1, len(tunes) > 1
    return [codec if codec.tokenizer.onedva else replace(codec, name=_curve_name(codec, *several)) for codec in codecs]


def _curve_name(codec: VtokCodec, by_stickiness: bool, by_effort: bool, by_tune: bool) -> str:
    """Return the name of a codec with what has a curve of its own, because several are compared."""
    parts = [codec.name]
    parts += [f"δ {codec.stickiness:g}"] if by_stickiness else []
    parts += [codec.effort] if by_effort else []
    parts += [f"tune {codec.tune}"] if by_tune else []
    return " ".join(parts)


def model_name(tokenizer: Tokenizer) -> str:
    """Return the name of a model, which is that of the transformers if it has 1D tokens."""
    return tokenizer.onedva.header.name if tokenizer.onedva else tokenizer.id.name


def _names(tokenizers: Sequence[Tokenizer]) -> dict[int, str]:
    """Return a name for each model, by its `id()`; those of equal names get a part of a hash of all their weights.

    Raises:
        ModelError: A model has the name of an anchor.
        SettingError: Two models are the same.
    """
    plain = list(map(model_name, tokenizers))
    hashes = [_hash_of(each) for each in tokenizers]
    if doubled := next((name for name, sha in zip(plain, hashes, strict=True) if hashes.count(sha) > 1), None):
        raise SettingError(f"the model {doubled} is named twice; leave one out")
    if taken := set(plain) & set(ANCHORS):
        raise ModelError(f"a model must not be called {min(taken)}; rename its file")
    return {
        id(tokenizer): name if plain.count(name) == 1 else f"{name}-{sha256[:8]}"
        for tokenizer, sha256, name in zip(tokenizers, hashes, plain, strict=True)
    }


def _hash_of(tokenizer: Tokenizer) -> str:
    """Return a hash of all weights that a model's files depend on."""
    prior, onedva = tokenizer.prior, tokenizer.onedva
    parts = tokenizer.id.weights_sha256, prior.sha256 if prior else "", onedva.header.weights_sha256 if onedva else ""
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _with_windows(codec: VtokCodec, rdos: Sequence[float], window_tokens: Sequence[str]) -> list[VtokCodec]:
    """Return a codec with 1D tokens at each choice of how many."""
    assert codec.tokenizer.onedva
    for choice in window_tokens:
        codec.tokenizer.onedva.chosen_lengths(choice)
    return [replace(codec, rdo=rdo, window_tokens=choice) for rdo, choice in product(rdos, window_tokens)]


def _pairs(
    tokenizers: Sequence[Tokenizer], decoders: Sequence[str]
) -> list[tuple[Tokenizer, str, OtherDecoder | None]]:
    """Combine each model with each decoder that fits it.

    Returns:
        For each pair, the model, the decoder as it was written, and the decoder that was loaded; None for the model's
        own one.

    Raises:
        ModelError: A decoder fits none of the models.
    """
    pairs = []
    refusals: dict[str, ModelError] = {}
    for tokenizer in tokenizers:
        loaded = Decoders(tokenizer)
        for decoder in decoders:
            try:
                pairs.append((tokenizer, decoder, _chosen(loaded, decoder)))
            except ModelError as error:
                refusals[decoder] = error
    for decoder, refusal in refusals.items():
        if decoder not in {paired for _, paired, _ in pairs}:
            raise refusal
    return pairs


def _chosen(decoders: Decoders, decoder: str) -> OtherDecoder | None:
    """Return the decoder that a name with optional steps stands for; None for the model's own decoder."""
    name, colon, steps = decoder.partition(":")
    if colon and not steps.isdecimal():
        raise SettingError(f"decoder {decoder}: write the steps as a number, such as ddim:2")
    onedva = decoders.tokenizer.onedva
    windows = onedva.header if onedva else None
    return decoders.other(DecoderChoice(name, int(steps) if steps else None), windows)


def _short(decoder: str, decoders: Sequence[str]) -> str:
    """Shorten a decoder's path to the file name, unless another decoder has the same file name."""
    name = Path(decoder).name
    same = {str(Path(other).parent) for other in decoders if Path(other).name.split(":")[0] == name.split(":")[0]}
    return name if len(same) == 1 else decoder
