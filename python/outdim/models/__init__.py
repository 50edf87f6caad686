"""Models: load one, find its blocks and norms by role, observe its hidden states."""

from outdim.models.ablate import Edited, ablate, ablate_each, apply_ablation
from outdim.models.ablation import Ablation, GroupValues
from outdim.models.ablation_values import with_estimated_means, with_means, with_samples
from outdim.models.architecture import (
    Architecture,
    NormParameters,
    architecture,
    check_eval_mode,
)
from outdim.models.attention import Attention, attention_heads, observe_attention
from outdim.models.controls import controls, keep_only
from outdim.models.forward import Forward
from outdim.models.fused import FusedSink
from outdim.models.heads import Head, check_head, natural_head, share_weights
from outdim.models.length import sequence_length
from outdim.models.load import describe, load_model, model_sha256
from outdim.models.observe import Observation, observe
from outdim.models.padding import Padding, padding_reaches_text, probe_padding
from outdim.models.points import Point
from outdim.models.predictor import Predictor

__all__ = [
    "Ablation",
    "Architecture",
    "Attention",
    "Edited",
    "Forward",
    "FusedSink",
    "GroupValues",
    "Head",
    "NormParameters",
    "Observation",
    "Padding",
    "Point",
    "Predictor",
    "ablate",
    "ablate_each",
    "apply_ablation",
    "architecture",
    "attention_heads",
    "check_eval_mode",
    "check_head",
    "controls",
    "describe",
    "keep_only",
    "load_model",
    "model_sha256",
    "natural_head",
    "observe",
    "observe_attention",
    "padding_reaches_text",
    "probe_padding",
    "sequence_length",
    "share_weights",
    "with_estimated_means",
    "with_means",
    "with_samples",
]
