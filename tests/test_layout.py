"""The map between frames and latent frames."""

from __future__ import annotations

import pytest

from vtok_codec.layout import GopLayout

USUAL = GopLayout((4, 8, 8))
ENHANCED = GopLayout((4, 16, 16), (2, 2))


@pytest.mark.parametrize(("frames", "latents"), [(1, 1), (2, 2), (5, 2), (6, 3), (13, 4), (61, 16)])
def test_a_gop_starts_with_a_frame_of_its_own(frames: int, latents: int) -> None:
    assert USUAL.latents(frames, first=True) == latents
    assert ENHANCED.latents(frames, first=True) == latents + 3
    assert USUAL.frames(latents, first=True) - 4 < frames <= USUAL.frames(latents, first=True)
    assert ENHANCED.time_steps(latents + 3, first=True) == latents
    assert ENHANCED.stored_latents(latents, first=True) == latents + 3


@pytest.mark.parametrize("layout", [USUAL, ENHANCED, GopLayout((1, 8, 8)), GopLayout((8, 16, 16), (2, 2))])
@pytest.mark.parametrize("first", [True, False])
def test_frames_and_latents_are_inverse(layout: GopLayout, first: bool) -> None:
    for steps in range(1, 20):
        frames = layout.chunk_frames(steps, first)
        latents = layout.latents(frames, first)
        assert layout.frames(latents, first) == frames
        assert layout.time_steps(latents, first) == steps
        assert layout.padding(frames, first) == 0
        filled = frames + layout.filled_frames(first)
        assert layout.whole_frames(filled) == filled == steps * layout.stride[0]


def test_later_chunks_repeat_nothing() -> None:
    assert USUAL.filled_frames(first=False) == 0 and USUAL.filled_frames(first=True) == 3
    assert USUAL.latents(5, first=False) == 2 and USUAL.padding(5, first=False) == 3


def test_pictures_are_padded_to_the_stride() -> None:
    assert USUAL.grid(50, 70) == (7, 9) and USUAL.picture(7, 9) == (56, 72)
    assert ENHANCED.phases == 4 and ENHANCED.extra_latents == 3 and USUAL.phases == 1


def test_the_chunks_of_a_gop_follow_each_other() -> None:
    """Each but the last covers so many time steps, and each is as long as its latent frames say."""
    for enhanced in ((1, 1), (2, 2)):
        layout = GopLayout((4, 8, 8), enhanced)
        assert list(layout.chunks(0, 4)) == []
        assert list(layout.chunks(1, 4)) == [(0, 1)]
        assert list(layout.chunks(30, 4)) == [(0, 13), (13, 29), (29, 30)]
        assert list(layout.chunks(29, 4))[-1] == (13, 29)
