"""The same architecture with random weights: what a model is before it has learned anything."""

import copy
from typing import TYPE_CHECKING

import torch

from outdim.errors import ArgumentError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def random_twin(
    model: "PreTrainedModel", seed: int, device: torch.device | str | None = None
) -> "PreTrainedModel":
    """A model of the same class and configuration whose weights are those of a fresh start.

    They are drawn as transformers initialises the class, on the CPU, so that a seed gives the same
    weights whatever the device; the state of torch's generator is left as it was.

    Args:
        model: Of which class, configuration and dtype, and on which device, the twin is.
        seed: Of the weights.
        device: Another device; ``"meta"`` makes a twin without weights, to know that there is one.

    Raises:
        ArgumentError: The class cannot be made from its configuration alone.
    """
    device = model.device if device is None else torch.device(device)
    config = copy.deepcopy(model.config)
    made_on = device if device.type == "meta" else torch.device("cpu")
    with torch.random.fork_rng(devices=[]), made_on:
        torch.default_generator.manual_seed(seed)
        try:
            twin = type(model)._from_config(
                config, dtype=model.dtype, attn_implementation=config._attn_implementation
            )
        except TypeError as error:  # a class of the user's own that takes more than a configuration
            raise ArgumentError(
                f"twins: {type(model).__name__} cannot be made from its configuration alone "
                f"({error}); observe no twin of it."
            ) from error
    return twin.to(device).eval()
