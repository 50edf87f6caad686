"""Whether statistics in a LayerNorm's registers beat handing its output over through the L2 cache.

On a GPU, at the sizes of real batches, which the L2 cache holds: sums in float32, one covariate,
one group and no shape, all that the registers carry, in one call (registers) and in two (LayerNorm,
then moments of what it stored). `correlate`, with four covariates, three groups and shape, always
takes the second way. If it is as fast here (below 1.05 at every size), the kernel in registers
serves nobody and goes; if not, the ratio says what it is worth to carry more in it.
"""

from __future__ import annotations

from dataclasses import replace

import common
import torch
from outdim.bench import Row, measure_and_print, write
from outdim.bench.inputs import make_inputs
from outdim.bench.moments import fused_case

_SIZES = ((4096, 768), (4096, 1024), (4096, 3072), (16384, 1024))
_WORTH = 1.05


def main() -> None:
    chosen = common.options(__doc__)
    accum = "fast" if chosen.device == "cuda" else "exact"
    names = f"outdim {accum}", f"outdim {accum}, two calls", "outdim LayerNorm alone"
    rows: list[Row] = []
    ratios = []
    for N, D in _SIZES[:1] if chosen.quick else _SIZES:
        for dtype in (torch.float32, torch.bfloat16):
            case = fused_case(make_inputs(N, D, dtype, chosen.device), 1)
            kept = [
                replace(v, role="ours" if v.name == names[0] else "other")
                for v in case.variants
                if v.name in names
            ]
            found = measure_and_print(replace(case, op="hand_over", variants=kept), chosen.rounds)
            rows += found
            times = {row["variant"]: row["median_ms"] for row in found}
            ratios.append(times[names[1]] / times[names[0]])
    print(
        f"two calls take {min(ratios):.2f} to {max(ratios):.2f} times as long as one: "
        + ("one call earns its place" if max(ratios) >= _WORTH else "one call earns nothing")
    )
    if chosen.json is not None:
        write(chosen.json, "hand_over", rows, common.describe(chosen.device))


if __name__ == "__main__":
    main()
