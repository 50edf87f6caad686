"""Every kernel once or twice on small shapes: what compute-sanitizer looks at."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from gpu import checks

device = torch.device("cuda", 0)
MANY = {"table": 3, "rows": 2, "groups": 2, "labels": True, "shape": True}
for dtype in checks.DTYPES:
    for n, d, margin in ((37, 130, 3), (300, 768, 0)):
        checks.check_moments(device, n, d, dtype, margin=margin)
        checks.check_moments(device, n, d, dtype, margin=margin, exact=True, **MANY)
        checks.check_layer_norm(device, n, d, dtype, "residual", margin=margin)
        for variant in ("full", "residual"):
            checks.check_fused(device, n, d, dtype, variant, "output", labels=True, shape=True)
    checks.check_layer_norm(device, 5, 5000, dtype, "full")
    checks.check_fused(device, 9, 3504, dtype, "residual", "input", shape=True)
    for variant in ("each", "clip", "rms"):
        checks.check_layer_norm(device, 37, 130, dtype, variant, margin=3)
    checks.check_segment_sums(device, 37, 130, dtype, margin=3)
    checks.check_magnitude_counts(device, 37, 130, dtype, margin=3)
    checks.check_token_shape(device, 37, 130, dtype, margin=3)
    for d in (33, 64):
        options = checks.attention_options(2, 4, 70, 70)["groups"]
        checks.check_attention_received(device, (2, 4, 2, 70, 70, d), dtype, **options)
checks.check_rank_histogram(device, 100, 40)
