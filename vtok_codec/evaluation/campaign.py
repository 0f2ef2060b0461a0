"""A whole evaluation: every clip through every codec at every operating point, and what follows from all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np

from vtok_codec.errors import VtokError
from vtok_codec.evaluation.bdrate import RatePoint, bd_rate
from vtok_codec.evaluation.cache import ResultCache
from vtok_codec.evaluation.clips import Clip
from vtok_codec.evaluation.codecs import Codec
from vtok_codec.evaluation.fvd import Features, frechet_distance
from vtok_codec.evaluation.measure import ClipResult, Measures, evaluate_clip, mean_result
from vtok_codec.evaluation.metrics import HIGHER_IS_BETTER, Quality

BD_ANCHOR = "x264"
"""The codec that rate differences refer to."""

Point = tuple[str, str]
"""Codec and operating point."""


@dataclass(frozen=True)
class MeanBDRate:
    """A codec's rate difference to the anchor by one measure, averaged over clips."""

    mean: float | None
    """None where no clip has a quality that both reach."""
    clips: int
    """Clips that have one."""
    of: int
    """Clips in all."""


@dataclass
class Evaluation:
    """All results, in the order of codecs, then clips."""

    title: str
    """What its clips have in common."""
    clips: list[Clip]
    results: list[ClipResult] = field(default_factory=list)
    fvd: dict[Point, float | None] = field(default_factory=dict)
    """Only with an I3D network; None for fewer than two clips."""
    failures: list[str] = field(default_factory=list)
    """What could not be measured, and why."""

    @property
    def codecs(self) -> list[str]:
        return list(dict.fromkeys(result.codec for result in self.results))

    @property
    def points(self) -> list[Point]:
        return list(dict.fromkeys(result.point for result in self.results))

    def at(self, point: Point) -> list[ClipResult]:
        """The results of one operating point, clip by clip."""
        return [result for result in self.results if result.point == point]

    def means(self, codec: str | None = None) -> list[ClipResult]:
        """The mean over clips at each operating point, of one codec or of all."""
        return [mean_result(self.at(point)) for point in self.points if codec in (None, point[0])]

    def bd_rates(self) -> dict[str, dict[str, MeanBDRate]]:
        """For each codec and measure, the mean of the clips' rate differences to x264; nothing without x264."""
        if BD_ANCHOR not in self.codecs:
            return {}
        measures = self.ordering_measures
        return {codec: {measure: self._bd_rate(codec, measure) for measure in measures} for codec in self.codecs}

    @property
    def measures(self) -> list[str]:
        """The measures of quality that some result has."""
        return [
            measure.name
            for measure in fields(Quality)
            if any(getattr(result.quality, measure.name) is not None for result in self.results)
        ]

    @property
    def ordering_measures(self) -> list[str]:
        """Those of them that a rate difference can be told in."""
        return [measure for measure in self.measures if measure in HIGHER_IS_BETTER]

    def _bd_rate(self, codec: str, measure: str) -> MeanBDRate:
        per_clip = []
        for clip in self.clips:
            curves = [self._curve(clip.name, name, measure) for name in (BD_ANCHOR, codec)]
            rate = bd_rate(curves[0], curves[1], HIGHER_IS_BETTER[measure])
            if rate is not None:
                per_clip.append(rate)
        return MeanBDRate(float(np.mean(per_clip)) if per_clip else None, len(per_clip), len(self.clips))

    def _curve(self, clip: str, codec: str, measure: str) -> list[RatePoint]:
        own = [result for result in self.results if (result.clip, result.codec) == (clip, codec)]
        pairs = [(result.bits_per_pixel, getattr(result.quality, measure)) for result in own]
        return [RatePoint(rate, quality) for rate, quality in pairs if quality is not None]


def evaluate_all(
    title: str,
    clips: Sequence[Clip],
    codecs: Iterable[Codec],
    measures: Measures,
    folder: Path,
    cache: ResultCache,
    on_result: Callable[[ClipResult], None] = lambda result: None,
) -> Evaluation:
    """Put every clip through every codec; `folder` takes the coded files, one at a time.

    A clip that a codec or a measure fails on is told among the failures, and the others go on.
    """
    evaluation = Evaluation(title, list(clips))
    i3d = measures.i3d
    sources: list[Features] = [i3d.features(list(clip.pixels())) for clip in clips] if i3d else []
    for codec in codecs:
        outputs: list[Features] = []
        for clip in clips:
            try:
                result, features = evaluate_clip(clip, codec, measures, folder, cache)
            except VtokError as error:
                evaluation.failures.append(f"{clip.name} by {codec.name}, {codec.setting}: {error}")
                continue
            evaluation.results.append(result)
            on_result(result)
            if features is not None:
                outputs.append(features)
        if i3d and len(outputs) == len(sources):
            evaluation.fvd[codec.name, codec.setting] = frechet_distance(sources, outputs)
    return evaluation
