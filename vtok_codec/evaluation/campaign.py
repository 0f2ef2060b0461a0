"""Runs a whole evaluation, with every codec and operating point on every clip, and summarizes the results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np

from vtok_codec.errors import VtokError
from vtok_codec.evaluation.bdrate import RatePoint, bd_rate
from vtok_codec.evaluation.cache import ResultCache
from vtok_codec.evaluation.clips import SourceClip
from vtok_codec.evaluation.codecs import CodecUnderTest
from vtok_codec.evaluation.frechet import Features, frechet_distance
from vtok_codec.evaluation.measure import ClipResult, Measures, NetworkFeatures, evaluate_clip, mean_result
from vtok_codec.evaluation.scores import HIGHER_IS_BETTER, Scores

BD_ANCHOR = "x264"
"""The name of the codec that BD-rates refer to."""

_Task: TypeAlias = "Callable[[], tuple[ClipResult, NetworkFeatures]]"
"""Returns what `evaluate_clip` does, at once or when it is there."""
Point = tuple[str, str]
"""The names of a codec and of its operating point."""


@dataclass(frozen=True)
class MeanBDRate:
    """A codec's BD-rate against the anchor by one measure, averaged over clips."""

    mean: float | None
    """The mean of the clips' BD-rates, 0.25 for files that are a quarter larger; None where no clip has a BD-rate."""
    clips: int
    """The number of clips that have a BD-rate, because both codecs reach the same quality on them."""
    of: int
    """The number of all clips."""


@dataclass
class Evaluation:
    """The results of all codecs on a group of clips."""

    title: str
    """What the clips have in common, as a heading."""
    clips: list[SourceClip]
    """The clips."""
    results: list[ClipResult] = field(default_factory=list)
    """One result per codec, operating point and clip, in this order."""
    distances: dict[str, dict[Point, float | None]] = field(default_factory=dict)
    """By the name of a Fréchet distance, such as `FVD`: the distance at each operating point at which the network saw
    every clip; None for fewer than two clips."""
    failures: list[str] = field(default_factory=list)
    """What could not be measured and why, one line for each failure."""

    @property
    def codecs(self) -> list[str]:
        """The names of the codecs that have results, in their order."""
        return list(dict.fromkeys(result.codec for result in self.results))

    @property
    def points(self) -> list[Point]:
        """The operating points that have results, in their order."""
        return list(dict.fromkeys(result.point for result in self.results))

    def at(self, point: Point) -> list[ClipResult]:
        """Return the results at one operating point, in the order of the clips."""
        return [result for result in self.results if result.point == point]

    def means(self, codec: str | None = None) -> list[ClipResult]:
        """Return the mean over clips at each operating point.

        Args:
            codec: The name of a codec; None for all codecs.
        """
        return [mean_result(self.at(point)) for point in self.points if codec in (None, point[0])]

    def bd_rates(self) -> dict[str, dict[str, MeanBDRate]]:
        """Return the mean BD-rate against x264 for each codec and measure.

        Returns:
            For each codec, a mean BD-rate for each of `ordering_measures`. Empty if x264 was not measured.
        """
        if BD_ANCHOR not in self.codecs:
            return {}
        measures = self.ordering_measures
        return {codec: {measure: self._bd_rate(codec, measure) for measure in measures} for codec in self.codecs}

    @property
    def measures(self) -> list[str]:
        """The fields of `Scores` that at least one result has."""
        return [
            measure.name
            for measure in fields(Scores)
            if any(getattr(result.scores, measure.name) is not None for result in self.results)
        ]

    @property
    def ordering_measures(self) -> list[str]:
        """The fields of `Scores` that results have and that allow a BD-rate, because they order codecs by quality."""
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
        pairs = [(result.bits_per_pixel, getattr(result.scores, measure)) for result in own]
        return [RatePoint(rate, quality) for rate, quality in pairs if quality is not None]


def evaluate_all(
    title: str,
    clips: Sequence[SourceClip],
    codecs: Iterable[CodecUnderTest],
    measures: Measures,
    folder: Path,
    cache: ResultCache,
    on_result: Callable[[ClipResult], None] = lambda result: None,
    jobs: int = 1,
) -> Evaluation:
    """Run every codec on every clip, and measure the results.

    If a codec or a measure fails on a clip, the evaluation notes this in its `failures` and goes on.

    Args:
        title: The title of the evaluation.
        clips: The clips.
        codecs: The codecs, each at one operating point.
        measures: What to measure.
        folder: A folder for the coded files, of which one exists at a time for each job.
        cache: Earlier results, to which new ones are added.
        on_result: Called with each result as soon as it and all before it are there.
        jobs: How many clips to measure at the same time.
    """
    evaluation = Evaluation(title, list(clips))
    sources = _source_features(clips, measures, evaluation.failures)
    with ThreadPoolExecutor(jobs) as pool:
        for codec in codecs:
            outputs: list[NetworkFeatures] = []
            measured = [partial(evaluate_clip, clip, codec, measures, folder, cache, jobs == 1) for clip in clips]
            tasks: list[_Task] = [*measured] if jobs == 1 else [pool.submit(each).result for each in measured]
            for clip, task in zip(clips, tasks, strict=True):
                try:
                    result, features = task()
                except VtokError as error:
                    evaluation.failures.append(f"{clip.name} by {codec.name}, {codec.setting}: {error}")
                    continue
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
                evaluation.results.append(result)
                on_result(result)
                outputs.append(features)
            if sources is None or len(outputs) < len(sources):
                continue
            for network in measures.networks:
                distance = frechet_distance(_joined(sources, network.name), _joined(outputs, network.name))
                evaluation.distances.setdefault(network.name, {})[codec.name, codec.setting] = distance
    return evaluation


def _source_features(
    clips: Sequence[SourceClip], measures: Measures, failures: list[str]
) -> list[NetworkFeatures] | None:
    """Return what each network makes of each source; None, and a failure is noted, if a source cannot be measured."""
    features = []
    for clip in clips:
        try:
            features.append({net.name: net.features(list(clip.pixels())) for net in measures.networks})
        except VtokError as error:
            failures.append(f"{clip.name}: {error}")
            return None
    return features


def _joined(videos: Sequence[NetworkFeatures], name: str) -> list[Features]:
    """Return the features of all videos for a distance."""
    return [vector for features in videos for vector in features[name]]
