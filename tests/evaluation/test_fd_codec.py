"""FD-codec is 0 for the same videos, small for other parts of the same one, and grows with what is wrong."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import LANES, pixels_of

from vtok_codec.codec.tokenizer import Tokenizer
from vtok_codec.evaluation.fd_codec import FRAMES, CodecFeatures, fd_codec


@pytest.fixture(scope="module")
def videos() -> list[np.ndarray]:
    """Parts of a clip, `17 128 128 3` each."""
    frames = np.stack(pixels_of(LANES))
    starts = [(t, y, x) for t in (0, 34) for y in (0, 120) for x in (0, 320)]
    return [np.ascontiguousarray(frames[t : t + FRAMES, y : y + 128, x : x + 128]) for t, y, x in starts]


def test_features_are_those_of_whole_parts(videos: list[np.ndarray], tokenizer: Tokenizer) -> None:
    features = CodecFeatures(tokenizer).features(list(videos[0]))
    assert len(features) == 4 and {vector.shape for vector in features} == {(72,)}
    one = CodecFeatures(tokenizer).features(list(videos[0][:, :64, 64:]))
    assert np.allclose(one[0], features[1], atol=0.05)
    assert CodecFeatures(tokenizer).features(list(videos[0][:16])) == []
    with pytest.raises(ValueError, match="needs two parts"):
        fd_codec(tokenizer, videos, [videos[0][:16]])


def test_it_orders_videos_by_how_much_is_wrong(videos: list[np.ndarray], tokenizer: Tokenizer) -> None:
    rng = np.random.default_rng(0)
    even, odd = videos[::2], videos[1::2]
    still = [np.repeat(video[:1], FRAMES, 0) for video in videos]
    noisy = [np.clip(video + rng.normal(0, 25, video.shape), 0, 255).astype(np.uint8) for video in videos]
    slightly = [np.clip(video + rng.normal(0, 5, video.shape), 0, 255).astype(np.uint8) for video in videos]
    same, little, much, frozen = (fd_codec(tokenizer, videos, other) for other in (videos, slightly, noisy, still))
    assert same == pytest.approx(0, abs=1e-5)
    assert 0 < little < much and frozen > little
    assert fd_codec(tokenizer, even, odd) > 0
