"""LayerNorm and RMSNorm that zero two dimensions: torch, torch.compile, Liger-Kernel and outdim."""

from __future__ import annotations

from dataclasses import replace

import common
from outdim.bench.inputs import Inputs, check_rows
from outdim.bench.layer_norm import layer_norm_case, rms_norm_case
from outdim.bench.timing import Case, Variant


def cases(inputs: Inputs, threads: int) -> list[Case]:
    norm, rms = layer_norm_case(inputs, threads), rms_norm_case(inputs, threads)
    if inputs.x.is_cuda:
        norm = replace(norm, variants=[*norm.variants, *_liger(inputs, rms=False)])
        rms = replace(rms, variants=[*rms.variants, *_liger(inputs, rms=True)])
    return [norm, rms]


def _liger(inputs: Inputs, rms: bool) -> list[Variant]:
    """Liger-Kernel with zeroed gamma and beta, where it is installed."""
    try:
        from liger_kernel.ops.layer_norm import LigerLayerNormFunction
        from liger_kernel.ops.rms_norm import LigerRMSNormFunction
    except ImportError:
        return []
    gamma, beta = inputs.gamma * inputs.keep, inputs.beta * inputs.keep

    def check(y: object) -> dict[str, float]:
        check_rows(y, inputs, rms=rms)
        return {}

    def run() -> object:
        if rms:
            return LigerRMSNormFunction.apply(inputs.x, gamma, 1e-5)
        return LigerLayerNormFunction.apply(inputs.x, gamma, beta, 1e-5)

    return [Variant("Liger-Kernel, zeroed parameters", run, check)]


if __name__ == "__main__":
    common.run("layer_norm", common.options(__doc__), cases)
