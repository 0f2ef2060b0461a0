"""The integer network of a prior, which predicts the digits of a latent frame from digits that are already known.

All weights, activations and sums are whole numbers, and every sum stays below 2²⁴. float32 holds such numbers exactly,
so neither the order of additions nor the number of threads, the processor or the matrix library changes a result.
`docs/reference/format.md` specifies the arithmetic. The design follows Ballé et al., "Integer Networks for Data
Compression" (ICLR 2019), and codes the positions of a plane in the checkerboard order of He et al. (arXiv:2103.15306).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from vtok_codec.tokens.prior.layers import EXACT, LARGEST, Layer, LayerSource, Tensors, Whole
from vtok_codec.tokens.radix import Digits

MAX_LEVELS = 8
"""The largest number of levels of a digit, which is the number of logits per digit."""
NEIGHBOURS = {
    2: (((-1, 0), (1, 0), (0, -1), (0, 1)),),
    3: (((-1, -1), (-1, 1), (1, -1), (1, 1)), ((-1, 0), (1, 0), (0, -1), (0, 1))),
}
"""By the number of steps per plane: for each step after the first, the offsets of the positions that are known by then
in the plane itself, as rows down and columns to the right."""
_TAPS = 4
_KERNEL = 3
"""Rows and columns of the trunk's kernels."""
_VALUE_SLOTS = 2
"""The number of earlier latent frames of which each digit also enters by its value, not only by its features."""
_WITH_CHANGE = 3
"""The inputs per digit, if they tell about changes."""
_STRIP = 1 << 13
"""The number of positions that are convolved at once, which limits memory."""


@dataclass(frozen=True)
class NetworkConfig:
    """The shape of a network."""

    slots: int
    """The number of earlier latent frames that the network reads. With 0, it has no trunk."""
    places: int
    """The number of places within a GOP that have biases of their own. Later places share those of the last."""
    channels: int
    """The channels of the trunk."""
    blocks: int
    """The residual blocks of the trunk."""
    features: int
    """The features of each plane."""
    inputs: int
    """The inputs per digit: 2 or 3. The first grows with the digit, the second with its distance from the middle, and
    the third tells whether the digit differs from the one at its position in the latent frame before."""
    reach: int
    """Rows and columns of the window that is read in earlier planes of the same latent frame; an odd number."""
    steps: int
    """The steps in which the positions of a plane are coded: 2 or 3; see `step_grid`."""


class Network:
    """A network that predicts the digits of one latent frame.

    Args:
        config: The shape of the network.
        levels: The number of levels of each of the P planes.
        tensors: The integer tensors by name, as `docs/reference/format.md` lists them.

    Raises:
        ValueError: A tensor is missing or has another shape or type, or a sum could reach `EXACT`.
    """

    def __init__(self, config: NetworkConfig, levels: Sequence[int], tensors: Tensors) -> None:
        self.config = config
        self.planes = len(levels)
        self.levels = tuple(levels)
        source, planes, features = LayerSource(tensors), self.planes, config.features
        self._table = input_table(levels)
        self._trunk = self._trunk_layers(source) if config.slots else []
        self._first_weights: dict[int, Whole] = {}
        """For numbers of planes that were asked for: the weights of the trunk's first layer for them."""
        self._from_trunk: Whole | None = None
        """The weights from the trunk to the head, `C P·F`."""
        if config.slots:
            from_trunk = source.weight("head.trunk", (planes, config.channels, features))
            self._from_trunk = np.ascontiguousarray(from_trunk.transpose(1, 0, 2)).reshape(config.channels, -1)
        window = config.reach**2 * config.inputs
        self._from_plane = [
            source.weight(f"head.plane.{plane}", (window, planes - 1 - plane, features)) for plane in range(planes - 1)
        ]
        seen = min(config.slots, _VALUE_SLOTS)
        self._from_before = (
            source.weight("head.before", (planes, _KERNEL**2 * config.inputs, features)) if config.slots else None
        )
        self._from_values = source.weight("head.values", (seen, planes, MAX_LEVELS, features)) if seen else None
        self._own = source.weight("head.own", (config.steps - 1, planes, _TAPS * config.inputs, features))
        self._head_scale, half = source.scale("head.shift", (planes, features))
        self._head_bias = source.bias("head.bias", (config.steps, planes, features)) + half
        self._hidden = source.layers("hidden", planes, features, features)
        whole = source.layers("logits", planes, features, MAX_LEVELS)
        self._logits = [layer.first(count) for layer, count in zip(whole, levels, strict=True)]
        self._check()

    def _trunk_layers(self, source: LayerSource) -> list[Layer]:
        config, window = self.config, _KERNEL**2
        inputs = config.slots * self.planes * config.inputs
        first = source.layer("trunk.in", window * inputs, config.channels, (config.places,))
        inner = [
            source.layer(f"trunk.{block}.{half}", window * config.channels, config.channels)
            for block in range(config.blocks)
            for half in range(2)
        ]
        return [first, *inner]

    def _check(self) -> None:
        """Refuse a network whose sums float32 might not hold exactly."""
        head = np.abs(self._head_bias).max(0)
        if self._from_trunk is not None:
            head = head + LARGEST * np.abs(self._from_trunk).sum(0).reshape(head.shape)
        for plane, weight in enumerate(self._from_plane):
            head[plane + 1 :] += LARGEST * np.abs(weight).sum(0)
        if self._from_before is not None and self._from_values is not None:
            head = head + LARGEST * (np.abs(self._from_before).sum(1) + np.abs(self._from_values).max(2).sum(0))
        head = head + LARGEST * np.abs(self._own).sum(2).max(0)
        layers = (*self._trunk, *self._hidden, *self._logits)
        if max(float(head.max()), *(layer.worst() for layer in layers)) >= EXACT:
            raise ValueError("a sum of the network could become too large to be exact")

    def frame(self, past: Sequence[Digits | None], place: int, planes: int, grid: tuple[int, int]) -> FramePrediction:
        """Start to predict a latent frame.

        Args:
            past: The `slots` latent frames before it, `P h w` each, the last one first; None for one that is missing.
            place: Its place within the GOP, below `places`.
            planes: The number of planes P that are coded, at most all of the network.
            grid: Its rows and columns.
        """
        features = self.config.features
        if self._from_trunk is not None:
            sums = self._run_trunk(past, place, planes, grid) @ self._from_trunk[:, : planes * features]
            sums = sums.reshape(-1, planes, features)
            self._add_before(sums, past, planes)
        else:
            sums = np.zeros((grid[0] * grid[1], planes, features), np.float32)
        before = past[0] if past else None
        return FramePrediction(self, sums, None if before is None else before.reshape(planes, -1), grid)

    def inputs(self, planes: NDArray[np.intp], digits: Digits, before: Digits | None, compared: bool = True) -> Whole:
        """Return the inputs of digits.

        Args:
            planes: The planes of the digits, of a shape that goes with theirs.
            digits: The digits, of any shape.
            before: The digits at the same positions in the latent frame before; None if there is none.
            compared: Whether the third input compares the two. If not, it is 0.

        Returns:
            Inputs from 0 to `LARGEST`, of the shape of the digits with one more axis.
        """
        made = self._table[planes, digits]
        if compared and self.config.inputs == _WITH_CHANGE:
            made[..., 2] = LARGEST if before is None else LARGEST * (digits != before)
        return made[..., : self.config.inputs]

    def _past_inputs(self, past: Sequence[Digits | None], slot: int) -> Whole | None:
        """Return the inputs of the digits of a slot, `P h w` and one more axis; None if its latent frame is missing."""
        frame, last = past[slot], slot == self.config.slots - 1
        if frame is None:
            return None
        planes = np.arange(len(frame))[:, None, None]
        return self.inputs(planes, frame, None if last else past[slot + 1], compared=not last)

    def _run_trunk(self, past: Sequence[Digits | None], place: int, planes: int, grid: tuple[int, int]) -> Whole:
        """Return the activations of the trunk, `h·w C`."""
        inputs = np.zeros((*grid, self.config.slots, planes, self.config.inputs), np.float32)
        for slot in range(self.config.slots):
            known = self._past_inputs(past, slot)
            if known is not None:
                inputs[:, :, slot] = known.transpose(1, 2, 0, 3)
        first, *inner = self._trunk
        sums = _convolved(inputs.reshape(*grid, -1), self._first_weight(planes))
        sums += first.bias[place]
        state = _clipped(first.scaled(sums))
        for begin, end in zip(inner[::2], inner[1::2], strict=True):
            hidden = _clipped(begin.finished(_convolved(state.reshape(*grid, -1), begin.weight)))
            state += end.finished(_convolved(hidden.reshape(*grid, -1), end.weight))
            state = _clipped(state)
        return state

    def _first_weight(self, planes: int) -> Whole:
        """Return the weights of the trunk's first layer for the first planes alone, since all others read zeros."""
        if planes not in self._first_weights:
            config, whole = self.config, self._trunk[0].weight
            split = whole.reshape(_KERNEL**2, config.slots, self.planes, config.inputs, config.channels)
            self._first_weights[planes] = np.ascontiguousarray(split[:, :, :planes]).reshape(-1, config.channels)
        return self._first_weights[planes]

    def _add_before(self, sums: Whole, past: Sequence[Digits | None], planes: int) -> None:
        """Add to the sums `h·w P F` what each plane itself held in the latent frames before."""
        assert self._from_before is not None and self._from_values is not None
        known = self._past_inputs(past, 0)
        if known is not None:
            for plane, inputs in enumerate(known):
                sums[:, plane] += _convolved(inputs, self._from_before[plane])
        for frame, weights in zip(past, self._from_values, strict=False):
            if frame is not None:
                sums += LARGEST * weights[np.arange(planes), frame.reshape(planes, -1).T]


class FramePrediction:
    """Predicts the digits of one latent frame, plane by plane and step by step.

    For every plane in order and every step of it, call `logits`, then `put` with the digits.
    """

    def __init__(self, network: Network, sums: Whole, before: Digits | None, grid: tuple[int, int]) -> None:
        """Start a latent frame.

        Args:
            network: The network.
            sums: The sums of all planes, `h·w P F`, as far as they follow from earlier latent frames.
            before: The digits of the latent frame before, `P h·w`; None if there is none.
            grid: The rows and columns of the latent frame.
        """
        config = network.config
        margin = config.reach // 2
        self._network, self._sums, self._before = network, sums, before
        self._steps = step_grid(grid, config.steps, margin)
        self._known = np.zeros(((grid[0] + 2 * margin) * (grid[1] + 2 * margin), config.inputs), np.float32)
        """The inputs of the plane that is being coded, flattened, with a margin of zeros around the grid."""
        self._padded = (grid[0] + 2 * margin, grid[1] + 2 * margin)

    def places(self, step: int) -> NDArray[np.intp]:
        """Return the places of a step in the flattened grid."""
        return self._steps[step].flat

    def logits(self, plane: int, step: int) -> Whole:
        """Return the logits of the L values of the digits of a step in sixteenths of a nat, whole numbers `n L`."""
        network, where = self._network, self._steps[step]
        sums = self._sums[where.flat, plane]
        sums += network._head_bias[step, plane]
        if step:
            weight = network._own[step - 1, plane]
            sums += self._known.take(where.neighbours, axis=0).reshape(len(sums), len(weight)) @ weight
        sums *= network._head_scale[plane]
        activations = _clipped(np.floor(sums, out=sums))
        return network._logits[plane](_clipped(network._hidden[plane](activations)))

    def put(self, plane: int, step: int, digits: Digits) -> None:
        """Make the digits of a step known to all later steps."""
        network, where = self._network, self._steps[step]
        before = None if self._before is None else self._before[plane][where.flat]
        self._known[where.padded] = network.inputs(np.array(plane), digits, before, compared=network.config.slots > 0)
        later = self._sums.shape[1] - 1 - plane
        if step == network.config.steps - 1 and later:
            weight = network._from_plane[plane][:, :later]
            window = _unpadded_windows(self._known.reshape(*self._padded, -1), network.config.reach)
            self._sums[:, plane + 1 :] += (window @ weight.reshape(len(weight), -1)).reshape(len(window), later, -1)


@dataclass(frozen=True)
class _Step:
    """The positions of a step, in the order of rows, then columns."""

    flat: NDArray[np.intp]
    """Their places in the flattened grid."""
    padded: NDArray[np.intp]
    """Their places in the flattened grid with a margin."""
    neighbours: NDArray[np.intp]
    """The places of their known neighbours in the flattened grid with a margin, `n 4`."""


@lru_cache(maxsize=8)
def step_grid(grid: tuple[int, int], steps: int, margin: int) -> tuple[_Step, ...]:
    """Return the positions of each step of a plane.

    The last step has all positions whose row and column have an odd sum. With two steps, the first has the others. With
    three steps, the first has those with an even row and column, the second those with an odd row and column.
    """
    row, column = np.indices(grid)
    number = np.where((row + column) % 2 == 1, steps - 1, 0)
    if steps == 3:
        number[(row % 2 == 1) & (column % 2 == 1)] = 1
    width = grid[1] + 2 * margin
    place = (row + margin) * width + column + margin
    made = []
    for step in range(steps):
        chosen = number == step
        taps = NEIGHBOURS[steps][step - 1] if step else ()
        offsets = np.array([down * width + right for down, right in taps], np.intp)
        made.append(_Step(np.flatnonzero(chosen), place[chosen], place[chosen][:, None] + offsets))
    return tuple(made)


def input_table(levels: Sequence[int]) -> NDArray[np.float32]:
    """Return the first two inputs of every digit of every plane, and a 0 as the third, `P MAX_LEVELS 3`."""
    table = np.zeros((len(levels), MAX_LEVELS, _WITH_CHANGE), np.float32)
    for plane, count in enumerate(levels):
        digit = np.arange(count)
        table[plane, :count, 0] = 1 + (LARGEST - 1) * digit // (count - 1)
        table[plane, :count, 1] = LARGEST * (2 * digit - (count - 1)) ** 2 // (count - 1) ** 2
    return table


def _clipped(values: Whole) -> Whole:
    np.maximum(values, 0, out=values)
    return np.minimum(values, LARGEST, out=values)


def _convolved(values: Whole, weight: Whole) -> Whole:
    """Return the products of each 3×3 window of `h w C` with weights `9·C O`, zeros outside: `h·w O`."""
    height, width, _ = values.shape
    padded = np.pad(values, ((1, 1), (1, 1), (0, 0)))
    rows = max(1, _STRIP // width)
    strips = (padded[top : top + rows + _KERNEL - 1] for top in range(0, height, rows))
    return np.concatenate([_unpadded_windows(strip, _KERNEL) @ weight for strip in strips])


def _unpadded_windows(values: Whole, side: int) -> Whole:
    """Return every window of `side`×`side` positions that lies within `values`, rows first: `n side²·C`."""
    view = np.lib.stride_tricks.sliding_window_view(values, (side, side), (0, 1))
    rows, columns, channels = view.shape[:3]
    return np.ascontiguousarray(view.transpose(0, 1, 3, 4, 2)).reshape(rows * columns, side * side * channels)
