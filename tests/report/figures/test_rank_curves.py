"""Counts by rank, several series: the legend says one word for all that stand beside."""

from outdim.report.figures.rank_curves import RankCurve, rank_curves

LINES = [
    RankCurve("truth", [9, 4, 1], ["a", "<b>", "$c$"], "reference"),
    RankCurve("without <7>", [14], ["a"]),
    RankCurve("control 1", [8, 5, 1], ["a", "b", "c"], "beside"),
    RankCurve("control 2", [7, 6, 1], ["a", "b", "c"], "beside"),
]


def test_every_line_is_there_and_controls_have_one_name():
    figure = rank_curves("ranks", "Ranks", "How to read it.", LINES)
    traces = figure.interactive.data
    assert [trace.y.tolist() for trace in traces] == [[9, 4, 1], [14], [8, 5, 1], [7, 6, 1]]
    shown = [trace.name for trace in traces if trace.showlegend]
    assert shown == ["truth", "without &lt;7&gt;", "random dimensions"]
    assert traces[0].text[1] == "&lt;b&gt;"
    assert {
        axis.type for axis in (figure.interactive.layout.xaxis, figure.interactive.layout.yaxis)
    } == {"log"}
    svg = figure.svg().decode()
    assert svg.count("random dimensions") == 1
    assert "without &lt;7&gt;" in svg


def test_the_table_has_every_rank_of_short_lines():
    table = rank_curves("ranks", "Ranks", "", LINES).table.to_pylist()
    assert len(table) == 3 + 1 + 3 + 3
    assert table[1] == {"series": "truth", "rank": 2, "token": "<b>", "count": 4}


def test_long_lines_are_thinned():
    counts = list(range(50_000, 0, -1))
    figure = rank_curves("ranks", "Ranks", "", [RankCurve("long", counts, ["t"] * 50_000)])
    assert len(figure.table) <= 1200
    assert figure.table["rank"].to_pylist()[-1] == 50_000
