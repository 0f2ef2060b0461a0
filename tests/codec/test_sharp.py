"""Sharp decoders: the decoder of other weights for the same tokens, as a file of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import SMALL_LANES, TINY, inside, randomized
from sharp import write_decoder

from vtok_codec import registry
from vtok_codec.codec.decoders import Decoders
from vtok_codec.codec.pixel_decoder import DecoderChoice
from vtok_codec.codec.sharp import SharpDecoder
from vtok_codec.codec.tokenizer import Tokenizer, load_tokenizer
from vtok_codec.errors import ModelError, SettingError
from vtok_codec.models.config import SharpConfig, config_from_json, config_to_json
from vtok_codec.models.onevae import OneVAE
from vtok_codec.models.weights import CODEC, build, dump_weights
from vtok_codec.registry import find_weights
from vtok_codec.weights_file import CODEC_SHA256, READS, WeightsFile


@pytest.fixture(params=[False, True], ids=["usual", "enhanced"])
def base(request: pytest.FixtureRequest, tmp_path: Path, one_thread: None) -> Path:
    """The weights of a small codec."""
    config = replace(TINY, enhanced_first_frame=request.param)
    path = tmp_path / "base.safetensors"
    path.write_bytes(dump_weights(randomized(OneVAE(config)), config, {}))
    return path


@pytest.fixture
def trained(base: Path, tmp_path: Path) -> Path:
    """The same codec with another decoder, as training the decoder alone leaves it."""
    file = find_weights(base)
    model = build(CODEC, file)
    other = randomized(OneVAE(model.config), seed=5)
    model.decoder.load_state_dict(other.decoder.state_dict())
    path = tmp_path / "trained.safetensors"
    path.write_bytes(dump_weights(model, model.config, {READS: file.sha256}))
    return path


@pytest.fixture
def sharp(base: Path, trained: Path, tmp_path: Path) -> Path:
    """The decoder alone, as the script writes it."""
    path = tmp_path / "sharp-tiny.safetensors"
    write_decoder(trained, base, path)
    return path


def loaded(path: Path) -> Tokenizer:
    return load_tokenizer(find_weights(path), "cpu")


def digits_of(tokenizer: Tokenizer) -> np.ndarray:
    frames = np.random.default_rng(3).integers(0, 256, (9, 32, 48, 3)).astype(np.uint8)
    return tokenizer.encode(frames, 2, None)[0]


def test_it_decodes_as_the_model_that_it_comes_from(base: Path, trained: Path, sharp: Path) -> None:
    tokenizer, whole = loaded(base), loaded(trained)
    decoder = Decoders(tokenizer).choose(DecoderChoice(str(sharp)))
    digits = digits_of(tokenizer)
    pictures, _ = decoder.decode(digits, (32, 48), 9, None)
    assert np.array_equal(pictures, whole.decode(digits, (32, 48), 9, None)[0])
    # The codec itself stays as it is.
    own, _ = tokenizer.decode(digits, (32, 48), 9, None)
    assert not np.array_equal(own, pictures)
    assert np.array_equal(own, loaded(base).decode(digits, (32, 48), 9, None)[0])
    assert (decoder.id, decoder.max_tokens, decoder.bytes_per_pixel) == (tokenizer.id, 4, tokenizer.bytes_per_pixel)


def test_it_is_found_by_its_name(base: Path, sharp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = [WeightsFile("base", base), WeightsFile("sharp-tiny", sharp)]
    monkeypatch.setattr(registry, "shipped_weights", lambda: shipped)
    monkeypatch.setattr("vtok_codec.cli.models.shipped_weights", lambda: shipped)
    assert inside("encode", SMALL_LANES, tmp_path / "a.vtk", "--model", "base", "-q", "--duration", 0.6) == (0, "", "")
    assert inside("decode", tmp_path / "a.vtk", tmp_path / "own.mp4", "-q") == (0, "", "")
    assert inside("decode", tmp_path / "a.vtk", tmp_path / "sharp.mp4", "--decoder", "sharp", "-q") == (0, "", "")
    assert (tmp_path / "own.mp4").read_bytes() != (tmp_path / "sharp.mp4").read_bytes()
    assert "sharp-tiny (--decoder sharp for" in inside("models")[1]
    code, _, told = inside("encode", SMALL_LANES, tmp_path / "b.vtk", "--model", "sharp-tiny")
    assert code == 6 and "is a decoder, which has no encoder" in told


def test_it_refuses_what_it_does_not_decode(base: Path, sharp: Path, tmp_path: Path) -> None:
    config = TINY
    other = tmp_path / "other.safetensors"
    other.write_bytes(dump_weights(randomized(OneVAE(config), seed=9), config, {}))
    with pytest.raises(ModelError, match="is for the tokens of weights"):
        SharpDecoder(find_weights(sharp), loaded(other))
    shape = replace(TINY, max_tokens=2)
    lying = tmp_path / "lying.safetensors"
    decoder = randomized(OneVAE(shape)).decoder
    lying.write_bytes(dump_weights(decoder, SharpConfig(shape), {CODEC_SHA256: find_weights(base).sha256}))
    with pytest.raises(ModelError, match="is for the tokens of weights"):
        SharpDecoder(find_weights(lying), loaded(base))
    with pytest.raises(ModelError, match="is not a sharp decoder"):
        SharpDecoder(find_weights(base), loaded(base))
    with pytest.raises(SettingError, match="no steps and no noise"):
        Decoders(loaded(base)).choose(DecoderChoice(str(sharp), steps=2))
    with pytest.raises(ModelError, match="there is no sharp decoder"):
        Decoders(loaded(base)).choose(DecoderChoice("sharp"))
    with pytest.raises(SystemExit, match="does not decode the tokens"):
        write_decoder(other, base, tmp_path / "x")


def test_the_configuration_survives_json() -> None:
    config = SharpConfig(TINY)
    assert config_from_json(config_to_json(config)) == config
