"""Models: load one, find its blocks and norms by role, observe its hidden states."""

from outdim.models.architecture import Architecture, NormParameters, architecture
from outdim.models.fused import FusedSink
from outdim.models.length import sequence_length
from outdim.models.load import describe, load_model, model_sha256
from outdim.models.observe import Observation, observe
from outdim.models.points import Point

__all__ = [
    "Architecture",
    "FusedSink",
    "NormParameters",
    "Observation",
    "Point",
    "architecture",
    "describe",
    "load_model",
    "model_sha256",
    "observe",
    "sequence_length",
]
