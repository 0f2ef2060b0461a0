"""The coder `prior`: exact, as the format says, bounded, and never led astray by what it is given."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import DATA
from hypothesis import given, settings
from hypothesis import strategies as st
from prior_helpers import LATER, random_prior, random_tensors
from safetensors.numpy import load

from vtok_codec.container.records import max_packed_bytes
from vtok_codec.tokens.coders import PRIOR, DigitLayout, make_coder
from vtok_codec.tokens.prior.calibration import frequencies_of, shares_of
from vtok_codec.tokens.prior.coder import PriorCoder
from vtok_codec.tokens.prior.network import Network
from vtok_codec.tokens.prior.prior import parse_prior
from vtok_codec.tokens.radix import Digits

LEVELS = (8, 5)


def drawn(levels: tuple[int, ...], shape: tuple[int, int, int], seed: int) -> Digits:
    """Digits of which a part stays the same from frame to frame."""
    rng = np.random.default_rng(seed)
    limits = np.array(levels).reshape(-1, 1, 1, 1)
    digits = rng.integers(0, 256, (len(levels), *shape)) % limits
    digits[:, 1:, : shape[1] // 2] = digits[:, :1, : shape[1] // 2]
    return digits.astype(np.uint8)


@given(
    st.integers(1, 3), st.integers(1, 5), st.integers(1, 6), st.integers(1, 6), st.integers(1, 4), st.integers(0, 99)
)
@settings(max_examples=60, deadline=None)
def test_digits_survive_chunk_by_chunk(tokens: int, t: int, h: int, w: int, chunk: int, seed: int) -> None:
    prior = parse_prior(random_prior(LEVELS, 3))
    digits = drawn(LEVELS * tokens, (t, h, w), seed)
    packer, unpacker = PriorCoder(prior, tokens, 1), PriorCoder(prior, tokens, 1)
    for start in range(0, t, chunk):
        part = digits[:, start : start + chunk]
        packed = packer.pack(part)
        assert len(packed) <= max_packed_bytes(part.size, len(part))
        assert np.array_equal(unpacker.unpack(packed, part.shape), part)


class Reference:
    """Coder 3 as `docs/reference/format.md` has it, in whole numbers of Python, digit by digit."""

    def __init__(self, data: bytes, tokens: int, phases: int) -> None:
        (size,) = struct.unpack_from("<Q", data)
        said = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["prior"])
        self.said = said
        self.tensors = {name: value.astype(object) for name, value in load(data).items()}
        self.levels, self.all_levels = said["levels"] * tokens, said["levels"] * said["tokens"]
        self.phases = phases
        self.past: list[list[list[list[int]]]] = []
        self.came: dict[tuple[int, int | None], list[int]] = {}
        self.foretold: dict[tuple[int, int | None], list[int]] = {}
        table = re.search(
            r"```text\n([\d\s]+)```",
            (DATA.parent.parent / "docs" / "reference" / "format.md").read_text(encoding="utf-8"),
        )
        assert table
        self.table = [int(word) for word in table[1].split()]

    def unpack(self, data: bytes, shape: tuple[int, int, int, int]) -> Digits:
        words = [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), 4)] + [0, 0]
        self.words, self.used = words, 2
        self.point, self.lower, self.span = words[0] << 32 | words[1], 0, 2**64 - 1
        frames = [self._frame(*shape[2:]) for _ in range(shape[1])]
        return np.array(frames, np.uint8).transpose(1, 0, 2, 3)

    def _frame(self, h: int, w: int) -> list[list[list[int]]]:
        n = len(self.past)
        first = n < self.phases
        name, place = ("first", n) if first else ("later", n - self.phases)
        net = self.said[name]
        t = {key.removeprefix(f"{name}."): value for key, value in self.tensors.items() if key.startswith(f"{name}.")}
        place = min(place, net["places"] - 1)
        slots = [self.past[-1 - k] if k < n else None for k in range(net["slots"])]
        trunk = self._trunk(net, t, slots, place, h, w) if net["slots"] else None
        now: list[list[list[int | None]]] = [[[None] * w for _ in range(h)] for _ in self.levels]
        for p, level in enumerate(self.levels):
            for q in range(net["steps"]):
                done = []
                for y, x in itertools.product(range(h), range(w)):
                    if self._step(y, x, net["steps"]) != q:
                        continue
                    logits = self._logits(net, t, slots, trunk, now, p, q, y, x)
                    s0 = self._shares(logits[:level])
                    context = (p, self.past[-1][p][y][x] if n else None)
                    done.append((y, x, context, s0, self._symbol(context, s0)))
                for y, x, context, s0, value in done:
                    now[p][y][x] = value
                    came, foretold = self.came[context], self.foretold[context]
                    came[value] += 2**16
                    for v, share in enumerate(s0):
                        foretold[v] += share
                for context in self.came:
                    if context[0] == p and done and sum(self.came[context]) > 1024 * 2**16:
                        self.came[context] = [v // 2 for v in self.came[context]]
                        self.foretold[context] = [v // 2 for v in self.foretold[context]]
        self.past.append(now)  # type: ignore[arg-type]
        return now  # type: ignore[return-value]

    def _step(self, y: int, x: int, steps: int) -> int:
        if (y + x) % 2:
            return steps - 1
        return 1 if steps == 3 and y % 2 else 0

    def _inputs(self, net, value, p, before, compared):  # type: ignore[no-untyped-def]
        if value is None:
            return [0] * net["inputs"]
        top = self.all_levels[p] - 1
        made = [1 + 126 * value // top, 127 * (2 * value - top) ** 2 // top**2]
        return made + ([127 * int(compared and value != before)] if net["inputs"] == 3 else [])

    def _slot_inputs(self, net, slots, k, p, y, x):  # type: ignore[no-untyped-def]
        """The inputs of a digit of slot k."""
        frame = slots[k]
        if frame is None or p >= len(self.levels) or not (0 <= y < len(frame[0]) and 0 <= x < len(frame[0][0])):
            return [0] * net["inputs"]
        last = k == net["slots"] - 1
        before = None if last or slots[k + 1] is None else slots[k + 1][p][y][x]
        return self._inputs(net, frame[p][y][x], p, before, not last)

    def _trunk(self, net, t, slots, place, h, w):  # type: ignore[no-untyped-def]
        def layer(name, window, place=None):  # type: ignore[no-untyped-def]
            bias = t[f"{name}.bias"] if place is None else t[f"{name}.bias"][place]
            sums = bias + np.array(window, object) @ t[f"{name}.weight"]
            return [scaled(a, s) for a, s in zip(sums, t[f"{name}.shift"], strict=True)]

        def around(grid, y, x):  # type: ignore[no-untyped-def]
            near = itertools.product((y - 1, y, y + 1), (x - 1, x, x + 1))
            return [v for a, b in near for v in (grid[a][b] if 0 <= a < h and 0 <= b < w else [0] * net["channels"])]

        places = list(itertools.product(range(h), range(w)))
        a = [[[0]] * w for _ in range(h)]
        for y, x in places:
            window = [
                value
                for b, c in itertools.product((y - 1, y, y + 1), (x - 1, x, x + 1))
                for k in range(net["slots"])
                for p in range(len(self.all_levels))
                for value in self._slot_inputs(net, slots, k, p, b, c)
            ]
            a[y][x] = [clip(v) for v in layer("trunk.in", window, place)]
        for i in range(net["blocks"]):
            hidden = [[[clip(v) for v in layer(f"trunk.{i}.0", around(a, y, x))] for x in range(w)] for y in range(h)]
            added = [[layer(f"trunk.{i}.1", around(hidden, y, x)) for x in range(w)] for y in range(h)]
            a = [[[clip(v + d) for v, d in zip(a[y][x], added[y][x], strict=True)] for x in range(w)] for y in range(h)]
        return a

    def _logits(self, net, t, slots, trunk, now, p, q, y, x):  # type: ignore[no-untyped-def]
        h, w = len(now[0]), len(now[0][0])
        before = slots[0] if slots else None

        def known(r, b, c):  # type: ignore[no-untyped-def]
            inside = 0 <= b < h and 0 <= c < w
            old = before[r][b][c] if before is not None and inside else None
            return self._inputs(net, now[r][b][c] if inside else None, r, old, net["slots"] > 0)

        total = t["head.bias"][q, p]
        if trunk is not None:
            total = total + np.array(trunk[y][x], object) @ t["head.trunk"][p]
            near = itertools.product((y - 1, y, y + 1), (x - 1, x, x + 1))
            window = [v for b, c in near for v in self._slot_inputs(net, slots, 0, p, b, c)]
            total = total + np.array(window, object) @ t["head.before"][p]
            for k in range(min(2, net["slots"])):
                if slots[k] is not None:
                    total = total + 127 * t["head.values"][k, p, slots[k][p][y][x]]
        reach = range(-(net["reach"] // 2), net["reach"] // 2 + 1)
        for r in range(p):
            window = [v for b, c in itertools.product(reach, reach) for v in known(r, y + b, x + c)]
            total = total + np.array(window, object) @ t[f"head.plane.{r}"][:, p - r - 1]
        if q:
            corners = net["steps"] == 3 and q == 1
            taps = [(-1, -1), (-1, 1), (1, -1), (1, 1)] if corners else [(-1, 0), (1, 0), (0, -1), (0, 1)]
            window = [v for b, c in taps for v in known(p, y + b, x + c)]
            total = total + np.array(window, object) @ t["head.own"][q - 1, p]
        u = [clip(scaled(a, s)) for a, s in zip(total, t["head.shift"][p], strict=True)]
        sums = t["hidden.bias"][p] + np.array(u, object) @ t["hidden.weight"][p]
        v = [clip(scaled(a, s)) for a, s in zip(sums, t["hidden.shift"][p], strict=True)]
        sums = t["logits.bias"][p] + np.array(v, object) @ t["logits.weight"][p]
        return [scaled(a, s) for a, s in zip(sums, t["logits.shift"][p], strict=True)]

    def _shares(self, logits: list[int]) -> list[int]:
        e = [self.table[min(192, max(logits) - logit)] for logit in logits]
        return [2**16 * value // sum(e) for value in e]

    def _symbol(self, context: tuple[int, int | None], s0: list[int]) -> int:
        came = self.came.setdefault(context, [0] * len(s0))
        foretold = self.foretold.setdefault(context, [0] * len(s0))
        trust = 16 * 2**16
        s1 = [share * (c + trust) // (f + trust) for share, c, f in zip(s0, came, foretold, strict=True)]
        frequencies = [share * (2**24 - 8) // sum(s1) + 1 for share in s1]
        frequencies[frequencies.index(max(frequencies))] += 2**24 - sum(frequencies)
        scale = self.span >> 24
        quantile, left, value = (self.point - self.lower) % 2**64 // scale, 0, 0
        while quantile >= left + frequencies[value]:
            left, value = left + frequencies[value], value + 1
        self.lower, self.span = (self.lower + scale * left) % 2**64, scale * frequencies[value]
        if self.span < 2**32:
            self.lower, self.span = self.lower * 2**32 % 2**64, self.span * 2**32
            following = self.words[self.used] if self.used < len(self.words) else 0
            self.point, self.used = self.point * 2**32 % 2**64 + following, self.used + 1
        return value


def scaled(total: int, shift: int) -> int:
    return int((total + 2**shift // 2) // 2**shift)


def clip(value: int) -> int:
    return max(0, min(127, value))


@pytest.mark.parametrize(("phases", "tokens"), [(1, 2), (4, 1)])
def test_it_is_what_the_format_says(phases: int, tokens: int) -> None:
    data = random_prior(LEVELS, 2, phases)
    digits = drawn(LEVELS * tokens, (phases + 3, 5, 4), 7)
    packer, reference = PriorCoder(parse_prior(data), tokens, phases), Reference(data, tokens, phases)
    for start, end in ((0, phases + 1), (phases + 1, phases + 3)):
        part = digits[:, start:end]
        assert np.array_equal(reference.unpack(packer.pack(part), part.shape), part)


def test_contexts_that_are_full_are_halved_as_the_format_says() -> None:
    """A large, quiet picture, which fills the contexts."""
    data = random_prior((3,), 1)
    digits = drawn((3,), (2, 30, 40), 3)
    packed = PriorCoder(parse_prior(data), 1, 1).pack(digits)
    assert np.array_equal(Reference(data, 1, 1).unpack(packed, digits.shape), digits)


def test_products_are_exact_in_every_number_type() -> None:
    """The largest layer that a prior may have, at the limit of its sums."""
    rng = np.random.default_rng(5)
    inputs = rng.integers(0, 128, (200, 1000)).astype(np.int64)
    weights = rng.integers(-127, 128, (1000, 32))
    exact = inputs @ weights
    for kind in (np.float32, np.float64):
        assert np.array_equal(inputs.astype(kind) @ weights.astype(kind), exact)
        order = rng.permutation(1000)
        assert np.array_equal(inputs[:, order].astype(kind) @ weights[order].astype(kind), exact)
    bytes_ = (torch.from_numpy(values).to(torch.int8) for values in (inputs, weights))
    assert np.array_equal(torch._int_mm(*bytes_).numpy(), exact)


def test_a_network_whose_sums_might_round_is_refused() -> None:
    tensors = random_tensors(LATER, 4, 1)
    Network(LATER, (8, 8, 8, 8), tensors)
    tensors["head.bias"] = tensors["head.bias"] + np.int32(2**24 - 1)
    with pytest.raises(ValueError, match=r"out of range|too large"):
        Network(LATER, (8, 8, 8, 8), tensors)
    tensors = random_tensors(LATER, 4, 1)
    tensors["trunk.in.bias"] = np.full_like(tensors["trunk.in.bias"], 2**24 - 2**10)
    with pytest.raises(ValueError, match="too large"):
        Network(LATER, (8, 8, 8, 8), tensors)


def test_a_gop_does_not_depend_on_the_threads() -> None:
    """Of NumPy's matrix products, which choose how to add up by their number."""
    script = "\n".join(
        (
            "import sys, hashlib, numpy as np",
            "from test_prior_coder import PriorCoder, drawn, parse_prior, random_prior",
            "prior = parse_prior(random_prior((8, 8, 8, 5, 5, 5), 2))",
            "packed = PriorCoder(prior, 2, 1).pack(drawn((8, 8, 8, 5, 5, 5) * 2, (3, 40, 60), 2))",
            "print(len(packed) % 4, hashlib.sha256(packed).hexdigest())",
        )
    )
    told = set()
    for threads in ("1", "2", "3"):
        environment = os.environ | {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        environment["PYTHONPATH"] = os.pathsep.join(sys.path)
        run = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        told.add(run.stdout)
    assert len(told) == 1 and told.pop().startswith("0 ")


def test_frequencies_add_up_whatever_the_logits() -> None:
    rng = np.random.default_rng(0)
    for levels in (2, 5, 8):
        logits = rng.integers(-20000, 20000, (500, levels)).astype(np.float32)
        logits[:50] = 0
        shares = shares_of(logits)
        assert (shares.sum(axis=1) <= 2**16).all()
        frequencies = frequencies_of(shares)
        assert frequencies.shape == (500, levels) and (frequencies >= 0).all()
        assert (frequencies.sum(axis=1) == 2**24 - levels).all()


def test_wrong_data_are_refused() -> None:
    prior = parse_prior(random_prior(LEVELS, 1))
    digits = drawn(LEVELS, (2, 4, 4), 1)
    packed = PriorCoder(prior, 1, 1).pack(digits)
    for wrong in (b"", packed[:-1], packed + bytes(8)):
        with pytest.raises(ValueError, match=r"words|do not end"):
            PriorCoder(prior, 1, 1).unpack(wrong, digits.shape)
    for shape in ((2, 1 << 10, 1 << 7, 1 << 7), (2, 1, 1 << 10, 1 << 10)):
        with pytest.raises(ValueError, match="above"):
            PriorCoder(prior, 1, 1).unpack(packed, shape)
    large = DigitLayout(LEVELS, 1, 1, prior, (1 << 10, 1 << 10))
    assert not PRIOR.fits(large, 0) and PRIOR.fits(DigitLayout(LEVELS, 1, 1, prior, (512, 1024)), 0)


@given(st.binary(max_size=400), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_any_data_give_digits_in_range_or_an_error(data: bytes, seed: int) -> None:
    prior = parse_prior(random_prior(LEVELS, 1))
    shape = (2, 1 + seed % 3, 3, 4)
    try:
        digits = PriorCoder(prior, 1, 1).unpack(data, shape)
    except ValueError:
        return
    assert (digits < np.array(LEVELS).reshape(-1, 1, 1, 1)).all()


def test_a_coder_needs_the_right_prior() -> None:
    prior = parse_prior(random_prior(LEVELS, 2))
    make_coder(PRIOR.id, DigitLayout(LEVELS, 2, 1, prior))
    for wrong in (DigitLayout(LEVELS, 3, 1, prior), DigitLayout((8, 6), 2, 1, prior), DigitLayout(LEVELS, 2)):
        with pytest.raises(LookupError):
            make_coder(PRIOR.id, wrong)


def replaced(data: bytes, change: dict[str, object]) -> bytes:
    """A prior's file with other entries in its description."""
    (size,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + size])
    said = json.loads(header["__metadata__"]["prior"]) | change
    header["__metadata__"]["prior"] = json.dumps(said)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"levels": [9, 5]},
        {"levels": []},
        {"tokens": 1},
        {"tokens": 10**9},
        {"first": {}},
        {"later": {"slots": 2}},
        {"later": None},
    ],
)
def test_a_prior_that_is_none_is_refused(change: dict[str, object]) -> None:
    data = random_prior(LEVELS, 2)
    parse_prior(replaced(data, {}))
    with pytest.raises(ValueError, match=r"it|tensor|integers"):
        parse_prior(replaced(data, change))


@pytest.mark.parametrize("data", [b"", b"\0" * 8, b"\xff" * 40, Path(__file__).read_bytes()])
def test_other_files_are_no_priors(data: bytes) -> None:
    with pytest.raises(ValueError, match="no prior"):
        parse_prior(data)


def test_memory_follows_from_the_picture() -> None:
    """A 720p picture at 8x8: below 400 bytes per position and plane."""
    import tracemalloc

    levels = (8, 8, 8, 5, 5, 5)
    prior = parse_prior(random_prior(levels, 2))
    digits = drawn(levels * 2, (2, 90, 160), 1)
    coder = PriorCoder(prior, 2, 1)
    tracemalloc.start()
    coder.pack(digits)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400 * math.prod(digits[:, 0].shape)


def test_choosing_at_no_cost_rounds_and_packs_alike() -> None:
    prior = parse_prior(random_prior(LEVELS, 2))
    digits = drawn(LEVELS * 2, (3, 5, 6), 3)
    values = digits + np.random.default_rng(1).uniform(-0.45, 0.45, digits.shape).astype(np.float32)
    chosen, packed = PriorCoder(prior, 2, 1).choose(values, 0.0)
    assert np.array_equal(chosen, digits) and packed == PriorCoder(prior, 2, 1).pack(digits)
    assert np.array_equal(PriorCoder(prior, 2, 1).unpack(packed, digits.shape), digits)


def test_what_bits_cost_decides_between_rate_and_error() -> None:
    """The dearer a bit, the smaller the data and the larger the error; what was chosen comes back."""
    prior = parse_prior(random_prior(LEVELS, 2))
    values = drawn(LEVELS * 2, (3, 12, 12), 3) + np.float32(0.3)
    sizes, errors = [], []
    for rdo in (0.0, 0.02, 0.1, 1.0):
        packer, unpacker = PriorCoder(prior, 2, 1), PriorCoder(prior, 2, 1)
        size, error = 0, 0.0
        for part in (values[:, :1], values[:, 1:]):
            digits, packed = packer.choose(part, rdo)
            assert np.array_equal(unpacker.unpack(packed, digits.shape), digits)
            size, error = size + len(packed), error + float(np.square(digits - part).sum())
        sizes.append(size)
        errors.append(error)
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < sizes[0]
    assert errors == sorted(errors) and errors[-1] > errors[0]


def test_a_trial_leaves_the_coder_as_it_is() -> None:
    prior = parse_prior(random_prior(LEVELS, 2))
    values = drawn(LEVELS * 2, (4, 12, 12), 3) + np.float32(0.3)
    tried, plain = PriorCoder(prior, 2, 1), PriorCoder(prior, 2, 1)
    for part in (values[:, :2], values[:, 2:]):
        for rdo in (0.5, 0.02):
            digits = tried.tried(part, rdo)
        chosen, packed = plain.choose(part, 0.02)
        assert np.array_equal(digits, chosen)
        assert tried.choose(part, 0.02)[1] == packed


@pytest.mark.parametrize("errors", [{"1": [[1.0], [1.0, 1.0]]}, {"1": [[1.0, 1.0], [1.0, -1.0]]}, {"1": [[1.0, 1.0]]}])
def test_weights_of_errors_are_checked(errors: dict[str, object]) -> None:
    data = random_prior(LEVELS, 2)
    parse_prior(replaced(data, {"errors": {"1": [[1.0, 2.0], [0.5, 0.5]]}}))
    with pytest.raises(ValueError, match=r"of an error|of errors"):
        parse_prior(replaced(data, {"errors": errors}))
