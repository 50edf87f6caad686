"""What a pass read, for the manifest."""

from collections.abc import Mapping

from outdim.analysis.step import Json


def tokens_read(by_selection: Mapping[str, int]) -> Json:
    """The section of the manifest, of the number of tokens of each selection that has any.

    >>> tokens_read({"text": 90, "text+first": 100, "all": 120})["tokens"]
    {'read': 120, 'special': 20, 'used': 100}
    """
    everything, used = (by_selection.get(name, 0) for name in ("all", "text+first"))
    return {"tokens": {"read": everything, "special": everything - used, "used": used}}
