"""A generator draws from the distributions that it says it predicts, sees nothing of what follows, and streams."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from generator_helpers import ENHANCED, SMALL, random_generator
from helpers import TINY, Given

from vtok_codec.errors import ModelError
from vtok_codec.models.config import ORDERS, Codebook, config_from_json, config_to_json
from vtok_codec.models.generator import Generator, kinds, ranks
from vtok_codec.models.weights import GENERATOR, build, dump_weights

GRID = (3, 4)
LATENTS = 6
PHASES = ENHANCED.layout.phases


def digits_of(seed: int = 0, latents: int = LATENTS) -> torch.Tensor:
    """Random digits `1 P t h w`."""
    generator = torch.Generator().manual_seed(seed)
    levels = torch.tensor(SMALL.levels).view(1, -1, 1, 1, 1)
    drawn = torch.randint(0, 1 << 20, (1, len(SMALL.levels), latents, *GRID), generator=generator)
    return (drawn % levels).to(torch.uint8)


def costs(model: Generator, digits: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.costs(digits, kinds(digits.shape[2], PHASES)[None])[0]


@pytest.mark.parametrize("order", ORDERS)
def test_what_is_drawn_costs_what_its_distributions_say(order: str) -> None:
    """The cost of drawn tokens, added up while drawing with a state, is the cost of the whole in one pass."""
    model = random_generator(replace(SMALL, order=order))
    random = torch.Generator().manual_seed(1)
    told: list[torch.Tensor] = []

    def pick(logits: torch.Tensor) -> torch.Tensor:
        value = torch.multinomial(logits.softmax(-1), 1, generator=random)
        told.append(-logits.log_softmax(-1).gather(1, value).sum())
        return value[:, 0]

    frames, state = [], model.start(1, *GRID)
    with torch.no_grad():
        for latent in range(LATENTS):
            frame, state = model.draw(min(latent, PHASES), state, pick)
            frames.append(frame)
        digits = torch.stack(frames, 2)
        whole, after = model.costs(digits, kinds(LATENTS, PHASES)[None])
    assert float(whole.sum()) == pytest.approx(float(sum(told)) / torch.log(torch.tensor(2.0)).item(), rel=1e-4)
    assert state.past.frames == after.past.frames == LATENTS
    for mine, other in zip(
        (*state.past.keys, *state.past.values, state.digits),
        (*after.past.keys, *after.past.values, after.digits),
        strict=True,
    ):
        assert torch.allclose(mine, other, atol=1e-4)


def test_stillness_favours_what_stood_there_before() -> None:
    """It raises the logits of the values in the latent frame before by so much, and nothing else."""
    model, digits = random_generator(), digits_of()
    told: dict[float, list[torch.Tensor]] = {0.0: [], 1.5: [], 50.0: []}
    with torch.no_grad():
        _, state = model.costs(digits, kinds(LATENTS, PHASES)[None])
        frames = {}
        for stillness, logits in told.items():

            def pick(given: torch.Tensor, logits: list[torch.Tensor] = logits) -> torch.Tensor:
                logits.append(given)
                return given.argmax(-1)

            frames[stillness] = model.draw(PHASES, state, pick, stillness=stillness)[0]
    before = digits[:, :, -1].long()
    assert torch.equal(frames[50.0], before) and not torch.equal(frames[0.0], before)
    # Of the first digit of the first position, which depends on nothing else that is drawn.
    raised = (told[1.5][0] - told[0.0][0])[0, : SMALL.levels[0]]
    expected = torch.zeros(SMALL.levels[0])
    expected[before[0, 0, 0, 0]] = 1.5
    assert torch.allclose(raised, expected, atol=1e-5)


def test_its_context_can_differ_from_what_it_predicts() -> None:
    """The costs are those of the digits, predicted from the context; of its own position a digit sees the true ones."""
    model, digits, context = random_generator(), digits_of(), digits_of(1)
    with torch.no_grad():
        kind = kinds(LATENTS, PHASES)[None]
        plain = costs(model, digits)
        same, _ = model.costs(digits, kind, context=digits)
        other, state = model.costs(digits, kind, context=context)
        _, seen = model.costs(context, kind)
    assert torch.equal(same, plain) and not torch.allclose(other, plain, atol=0.1)
    # Nothing precedes the first position, so that the context cannot reach it.
    assert torch.allclose(other[..., 0, 0, 0], plain[..., 0, 0, 0], atol=1e-5)
    assert torch.equal(state.digits, seen.digits)


def test_in_pieces_it_predicts_as_in_one() -> None:
    model, digits = random_generator(), digits_of()
    whole, parts, state = costs(model, digits), [], None
    with torch.no_grad():
        for begin, end in ((0, 1), (1, 4), (4, LATENTS)):
            kind = kinds(end - begin, PHASES, begin)[None]
            bits, state = model.costs(digits[:, :, begin:end], kind, state)
            parts.append(bits)
    assert torch.allclose(torch.cat(parts, 2), whole, atol=1e-4)


def test_a_batch_is_so_many_videos() -> None:
    model = random_generator()
    two = torch.cat([digits_of(1), digits_of(2)])
    with torch.no_grad():
        together, _ = model.costs(two, kinds(LATENTS, PHASES)[None].repeat(2, 1))
    assert torch.allclose(together, torch.cat([costs(model, digits_of(1)), costs(model, digits_of(2))]), atol=1e-4)


@pytest.mark.parametrize("order", ORDERS)
def test_it_sees_nothing_of_what_follows(order: str) -> None:
    """Another digit changes its own cost and what comes after it, and nothing before or beside it."""
    model = random_generator(replace(SMALL, order=order))
    digits = digits_of()
    before = costs(model, digits)
    rank = ranks(order, *GRID).view(GRID)
    for plane, latent, row, column in ((3, 2, 1, 1), (0, 0, 0, 3), (11, 4, 2, 0)):
        other = digits.clone()
        other[0, plane, latent, row, column] = (digits[0, plane, latent, row, column] + 1) % SMALL.levels[plane]
        changed = (costs(model, other) - before)[0] != 0
        assert not changed[:, :latent].any() and changed[:, latent + 1 :].any()
        elsewhere = (rank <= rank[row, column]) & ~(
            (torch.arange(GRID[0])[:, None] == row) & (torch.arange(GRID[1]) == column)
        )
        assert not changed[:, latent][:, elsewhere].any()
        assert not changed[:plane, latent, row, column].any() and changed[plane, latent, row, column]


def test_it_sees_everything_before() -> None:
    """The last digit depends on the first position of the frame before, and on the last one of its own frame."""
    model, digits = random_generator(), digits_of()
    before = costs(model, digits)[0, -1, -1, -1, -1]
    for place in ((0, 0, -2, 0, 0), (0, 4, -1, -1, -2), (0, 4, -1, 0, 0), (0, 10, -1, -1, -1)):
        other = digits.clone()
        other[place] = (digits[place] + 1) % 5
        assert costs(model, other)[0, -1, -1, -1, -1] != before


def test_waves_go_through_a_frame_in_few_ranks() -> None:
    assert ranks("raster", 2, 3).tolist() == [0, 1, 2, 3, 4, 5]
    assert ranks("waves", 2, 3).tolist() == [0, 1, 2, 2, 3, 4]
    assert len(set(ranks("waves", 16, 16).tolist())) == 16 + 2 * 15


def test_weights_and_shape_survive_their_file() -> None:
    assert config_from_json(config_to_json(SMALL)) == SMALL
    model = random_generator()
    again = build(GENERATOR, Given(SMALL, dump_weights(model, SMALL, {})))
    for name, value in model.state_dict().items():
        assert torch.equal(value.half(), again.state_dict()[name].half())
    with pytest.raises(ModelError, match="not a generator"):
        build(GENERATOR, Given(TINY, b""))


@pytest.mark.parametrize(
    "changes",
    [
        {"tokens": 5},
        {"tokens": 0},
        {"width": 30},
        {"width": 32, "heads": 8},
        {"heads": 0},
        {"order": "spiral"},
        {"codec": replace(TINY, codebook=Codebook("vq", 4, 16))},
        {"codec": replace(TINY, causal=False)},
    ],
)
def test_impossible_generators_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ModelError):
        replace(SMALL, **changes)  # type: ignore[arg-type]


def test_a_class_matters_and_an_unknown_one_is_no_class() -> None:
    model, digits = random_generator(replace(SMALL, classes=("cat", "dog"))), digits_of().expand(4, -1, -1, -1, -1)
    frames = kinds(LATENTS, PHASES).expand(4, -1)
    with torch.no_grad():
        labelled, state = model.costs(digits, frames, labels=torch.tensor([0, 1, 2, 1]))
        free, _ = model.costs(digits, frames)
        parts = [model.costs(digits[:, :, :2], frames[:, :2], labels=torch.tensor([0, 1, 2, 1]))]
        parts.append(model.costs(digits[:, :, 2:], frames[:, 2:], parts[0][1], torch.tensor([0, 1, 2, 1])))
        drawn = [model.draw(PHASES, state, lambda logits: logits.argmax(-1), torch.tensor(each))[0] for each in LABELS]
    assert torch.allclose(labelled[0], free[0], atol=1e-4) and torch.allclose(labelled[1], labelled[3], atol=1e-4)
    assert not torch.allclose(labelled[1], labelled[2], atol=1e-2)
    assert torch.allclose(torch.cat([part for part, _ in parts], 2), labelled, atol=1e-3)
    assert not torch.equal(drawn[0][0], drawn[1][0]) and torch.equal(drawn[0][3], drawn[1][3])


LABELS = ((0, 1, 2, 1), (2, 1, 2, 1))
"""Two choices of the classes of four videos."""


@pytest.mark.parametrize("classes", [("a", "a"), ("",)])
def test_classes_need_names_of_their_own(classes: tuple[str, ...]) -> None:
    with pytest.raises(ModelError, match="different names"):
        replace(SMALL, classes=classes)
    named = replace(SMALL, classes=("a", "b"))
    assert config_from_json(config_to_json(named)) == named
