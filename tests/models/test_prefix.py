"""Layers below the first edit run once: to the bit what the whole ablated model gives."""

from contextlib import suppress

import pytest
import torch
from outdim.errors import ArgumentError
from outdim.models import Ablation, Forward, ablate, apply_ablation, architecture
from outdim.models.ablate import ablate_each
from outdim.models.ablation import GroupValues
from outdim.models.ablation_sites import sites
from outdim.models.prefix import PrefixForward
from tiny import LAYERS, SINGLE, tiny_inputs, tiny_model

TEXT = [name for name in SINGLE if name != "vit"]
#: Its layers share a module.
WHOLE = {"albert"}


def prefix(model) -> PrefixForward:
    forward = Forward(model)
    return PrefixForward(model, architecture(model), lambda *given: forward(*given)[0])


def ran(model, given) -> list[int]:
    """How often the modules of blocks were run, filled while the model is used."""
    counts = []
    for place, point in enumerate(architecture(model).blocks()):
        counts.append(0)
        leaf = next(
            m for m in model.get_submodule(point.module).modules() if not list(m.children())
        )

        def count(module, args, output, place=place):
            counts[place] += 1

        given.append(leaf.register_forward_hook(count))
    return counts


@pytest.mark.parametrize("family", TEXT)
def test_every_variant_is_the_same_ablation_alone_to_the_bit(family):
    model = tiny_model(family)
    ids, mask = tiny_inputs(model).values()
    found = architecture(model)
    asked = [Ablation([3], [layer]) for layer in range(found.layers + 1)]
    asked += [Ablation([1, 2], [2, 4]), Ablation([5])]
    for at in ("denominator", "parameters", "readers"):
        with suppress(ArgumentError):  # no such norm
            sites(found, Ablation([4], [3], at))
            asked.append(Ablation([4], [3], at))
    forward, plain = prefix(model), Forward(model)
    assert bool(forward.note) == (family in WHOLE), forward.note
    with torch.inference_mode():
        intact = forward.keep(ids, mask, asked)
        assert torch.equal(intact, plain(ids, mask)[0])
        for ablation, given in zip(asked, forward.variants(asked), strict=True):
            with apply_ablation(model, ablation, found=found):
                alone = plain(ids, mask)[0]
            assert torch.equal(given, alone), ablation.label
        assert torch.equal(plain(ids, mask)[0], intact)  # nothing is left behind


@pytest.mark.parametrize("family", ["bert", "llama", "xlnet"])
def test_side_by_side_they_are_the_same_up_to_rounding(family):
    model = tiny_model(family)
    ids, mask = tiny_inputs(model).values()
    asked = [Ablation([dim], [layer]) for layer in (1, 3, LAYERS) for dim in range(5)]
    forward = prefix(model)
    with torch.inference_mode():
        forward.keep(ids, mask, asked)
        alone = list(forward.variants(asked))
        beside = list(forward.variants(asked, at_once=4))
        for one, other in zip(alone, beside, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)
        # And to the bit what as many give in a batch of the same shape.
        first = asked[:4]
        with ablate_each(model, first):
            whole = Forward(model)(ids.repeat(4, 1), mask.repeat(4, 1))[0]
    assert torch.equal(torch.cat(beside[:4]), whole)


def test_only_the_blocks_from_the_edit_on_run():
    model, hooks = tiny_model("llama"), []
    ids, mask = tiny_inputs(model).values()
    forward = prefix(model)
    asked = [Ablation([3], [LAYERS]), Ablation([3], [2])]
    with torch.inference_mode():
        forward.keep(ids, mask, asked)
        counts = ran(model, hooks)
        list(forward.variants(asked))
    assert counts == [0, 0, 1, 1]
    assert [forward.begins(one) for one in asked] == [LAYERS, 2]


def test_readers_and_denominators_begin_where_their_norms_are():
    llama, bert = tiny_model("llama"), tiny_model("bert")
    assert prefix(llama).begins(Ablation([1], [2], "readers")) == 2
    assert prefix(llama).begins(Ablation([1], [LAYERS], "readers")) == LAYERS  # the final norm
    assert prefix(bert).begins(Ablation([1], [2], "parameters")) == 1
    assert prefix(bert).begins(Ablation([1], [2], "denominator")) == 1
    assert prefix(bert).begins(Ablation([1], [0])) == 0


def test_values_by_group_of_tokens_reach_every_block_of_rows():
    model = tiny_model("llama")
    ids, mask = tiny_inputs(model).values()
    groups = GroupValues(text=5.0, first=7.0)
    asked = [Ablation([dim], [3], mode="mean", value=groups) for dim in (1, 2)]
    forward = prefix(model)
    with torch.inference_mode():
        forward.keep(ids, mask, asked)
        found = list(forward.variants(asked, at_once=2))
        for ablation, given in zip(asked, found, strict=True):
            with apply_ablation(model, ablation):
                alone = Forward(model)(ids, mask)[0]
            torch.testing.assert_close(given, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("mode", "value"), [("zero", None), ("scale", 0.5)])
def test_within_an_ablation_variants_are_of_the_ablated_model(mode, value):
    model = tiny_model("bert")
    ids, mask = tiny_inputs(model).values()
    inner = Ablation([3], [3])
    with ablate(model, [5], mode=mode, value=value):
        forward = prefix(model)  # which finds out that a second edit of h_k would change it
        with torch.inference_mode():
            forward.keep(ids, mask, [inner])
            (given,) = forward.variants([inner])
            with apply_ablation(model, inner):
                both = Forward(model)(ids, mask)[0]
    assert torch.equal(given, both)
    assert bool(forward.note) == (mode == "scale")


def test_out_of_memory_fewer_share_a_forward(monkeypatch):
    model = tiny_model("bert")
    ids, mask = tiny_inputs(model).values()
    plain, rows = Forward(model), []

    def run(*given):
        rows.append(len(given[0]))
        if len(given[0]) > 2 * len(ids):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(*given)[0]

    forward = PrefixForward(model, architecture(model), run)
    asked = [Ablation([dim], [2]) for dim in range(8)]
    with torch.inference_mode():
        forward.keep(ids, mask, asked)
        rows.clear()
        found = list(forward.variants(asked, at_once=8))
        again = list(forward.variants(asked, at_once=8))
    assert [count // len(ids) for count in rows] == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2]
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))

    # What is learnt is a number of tokens: of a batch half as large twice as many fit.
    with torch.inference_mode():
        forward.keep(ids[:1], mask[:1], asked)
        rows.clear()
        list(forward.variants(asked, at_once=8))
    most = 2 * len(ids)
    assert rows == [min(most, 8)] * (8 // most) + [8 % most] * bool(8 % most)

    def never(*given):
        raise torch.OutOfMemoryError("CUDA out of memory")

    forward._run = never
    with pytest.raises(torch.OutOfMemoryError):
        list(forward.variants(asked, at_once=8))


def test_an_error_leaves_the_model_as_it_was():
    model = tiny_model("llama")
    ids, mask = tiny_inputs(model).values()
    forward, plain = prefix(model), Forward(model)
    with torch.inference_mode():
        before = forward.keep(ids, mask, [Ablation([3], [2])])
        with pytest.raises(ArgumentError, match="layers"):
            list(forward.variants([Ablation([3], [9])]))
        forward._run = lambda *given: 1 / 0
        with pytest.raises(ZeroDivisionError):
            list(forward.variants([Ablation([3], [2])]))
        assert torch.equal(plain(ids, mask)[0], before)
    assert not any("forward" in vars(module) for module in model.modules())
