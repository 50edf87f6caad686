"""Which dimensions need care before quantisation, and what they cost.

In int8 with one scale for a tensor of hidden states, the largest value sets the step of all. Where
a few dimensions are much larger than the others (LLM.int8(), Dettmers et al. 2022), every other one
pays for them. One pass over text says which they are, whether words or only special and first
tokens make them large, and how many of the eight bits the others get back without them.

    python examples/quantisation.py MODEL TEXT
"""

import sys

import numpy as np
import outdim

TIMES = 6.0  # a dimension needs care if it reaches so many times what the median dimension reaches


def main(model_name: str, source: str) -> None:
    """Print a line a layer."""
    model, tokenizer = outdim.load_model(model_name), outdim.load_tokenizer(model_name)
    found = outdim.correlate(model, tokenizer, source)
    for point in found.points:
        everything = found.results[point, "all"]
        reach = everything.absmax.numpy()
        care = reach > TIMES * np.median(reach)
        words = found.results[point, "text"].absmax.numpy() > TIMES * np.median(reach)
        power = (everything.mean**2 + everything.variance).numpy()
        with_all, without = (
            ratio_db(power[~care], step) for step in (reach.max() / 127, reach[~care].max() / 127)
        )
        which = ", ".join(f"{dim}{'' if words[dim] else '*'}" for dim in np.flatnonzero(care))
        print(
            f"{point}: {which or 'none'}; signal to noise of the other dimensions "
            f"{with_all:.1f} dB, {without:.1f} dB without these ({(without - with_all) / 6.02:.1f} "
            "bits)"
        )
    print("* large at special or first tokens only")


def ratio_db(power: np.ndarray, step: float) -> float:
    """Signal to noise of values rounded to multiples of ``step``, whose noise is step^2 / 12."""
    return float(10 * np.log10(power.mean() / (step**2 / 12)))


if __name__ == "__main__":
    main(*sys.argv[1:])
