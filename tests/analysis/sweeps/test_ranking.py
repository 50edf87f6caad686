"""Dimensions as an earlier run ranks them."""

from outdim.analysis.sweeps import ranking
from outdim.analysis.sweeps.options import SweepOptions


def test_a_table_that_ranks_is_read_once(tmp_path, monkeypatch):
    """However many words there are, and however often what is asked for is checked."""
    read = []
    monkeypatch.setattr(ranking, "ranked_dims", lambda run: read.append(run) or [7, 2, 5])
    monkeypatch.setattr(ranking.manifest, "read", lambda run: {"model": {"hidden_size": 8}})
    options = SweepOptions(dims=["worst:2", "least:1"], ranking=str(tmp_path), controls=1)
    options.check_size(8, 2)
    options.check_size(8, 2)
    assert options.ranks.named(options.dims, 8) == ["7", "2", "5"]
    assert read == [tmp_path]
