"""Labelled files: GLUE's own layouts, other files by column, and what is wrong with bad ones."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from outdim.analysis.tasks import TASKS
from outdim.corpus.labelled import Columns, labelled_texts, read_hub, read_labelled
from outdim.errors import DataError

OTHER = (Columns(("text",), "kind"),)


def write(path, *lines: str):
    path.write_text("\n".join(lines) + "\n")
    return path


#: The first lines of GLUE's own files, with what must come out of them.
LAYOUTS = {
    "cola": (
        ["gj04\t1\t\tIt is \"so", "gj04\t0\t*\tIs it so"],
        ['It is "so', "Is it so"], None, [1, 0],
    ),
    "sst2": (["sentence\tlabel", "a fine film \t1"], ["a fine film "], None, [1]),
    "mrpc": (
        ["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", "1\t70\t71\tHe said \"no.\tHe said."],
        ['He said "no.'], ["He said."], [1],
    ),
    "stsb": (
        [
            "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
            "0\tnews\tx\t2012\t1\tnone\tnone\tA plane.\tAn air plane.\t5.000",
        ],
        ["A plane."], ["An air plane."], [5.0],
    ),
    "qqp": (
        ["id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "0\t1\t2\tWhy?\tHow so?\t0"],
        ["Why?"], ["How so?"], [0],
    ),
    "mnli": (
        [
            "index\tpromptID\tpairID\tgenre\tsentence1_parse\tsentence1\tsentence2\tlabel1\tgold_label",
            "0\t1\t1n\tfiction\t(x)\tA man.\tA person.\tneutral\tentailment",
            "1\t1\t1c\tfiction\t(x)\tA man.\tA dog.\tneutral\tcontradiction",
        ],
        ["A man.", "A man."], ["A person.", "A dog."], [0, 2],
    ),
    "qnli": (
        ["index\tquestion\tsentence\tlabel", "0\tWho?\tHe did.\tnot_entailment"],
        ["Who?"], ["He did."], [1],
    ),
    "rte": (["index\tsentence1\tsentence2\tlabel", "0\tA.\tB.\tentailment"], ["A."], ["B."], [0]),
    "wnli": (["index\tsentence1\tsentence2\tlabel", "0\tA.\tB.\t1"], ["A."], ["B."], [1]),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_glues_own_files(tmp_path, name):
    lines, texts, pairs, labels = LAYOUTS[name]
    task = TASKS[name]
    found = read_labelled([write(tmp_path / "dev.tsv", *lines)], task.columns, task.labels)
    assert (found.texts, found.pairs, found.labels.tolist()) == (texts, pairs, labels)
    assert found.labels.dtype == (np.int64 if task.labels else np.float64)


@pytest.mark.parametrize("name", sorted(set(TASKS) - {"sts"}))
def test_rows_as_the_hub_has_them(name):
    task = TASKS[name]
    columns = task.columns[0]
    row = {**dict.fromkeys(columns.texts, "a"), "label": 1 if task.labels else 2.5, "idx": 0}
    found = labelled_texts(pa.Table.from_pylist([row]), "hub", task.columns, task.labels)
    assert found.labels.tolist() == [row["label"]]
    assert (found.pairs is None) == (len(columns.texts) == 1)


def test_a_data_set_of_the_hub_is_read_by_its_configuration_and_split(tmp_path, monkeypatch):
    rows = pa.table({"sentence": ["good", "bad"], "label": [1, 0], "idx": [0, 1]})
    folder = tmp_path / "nyu-mll" / "glue" / "sst2"
    folder.mkdir(parents=True)
    pq.write_table(rows, folder / "validation-00000.parquet")
    (folder.parent / "README.md").write_text(
        "---\nconfigs:\n- config_name: sst2\n  data_files:\n  - split: validation\n"
        "    path: sst2/validation-*\n---\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    task = TASKS["sst2"]
    found = read_hub("nyu-mll/glue", "sst2", "validation", task.columns[0], task.labels)
    assert (found.texts, found.labels.tolist()) == (["good", "bad"], [1, 0])
    with pytest.raises(DataError, match=r"nyu-mll/glue \(sst2, test\) cannot be loaded.*--data"):
        read_hub("nyu-mll/glue", "sst2", "test", task.columns[0], task.labels)


def test_every_kind_of_file_gives_the_same(tmp_path):
    rows = [("a, b", "yes"), ('c "d"', "no")]
    write(tmp_path / "1.tsv", "text\tkind", *("\t".join(row) for row in rows))
    write(tmp_path / "2.csv", "text,kind", '"a, b",yes', '"c ""d""",no')
    write(tmp_path / "3.jsonl", *(json.dumps({"text": t, "kind": k}) for t, k in rows))
    pq.write_table(
        pa.table({"text": [t for t, _ in rows], "kind": [k for _, k in rows]}),
        tmp_path / "4.parquet",
    )
    found = [read_labelled([path], OTHER, ("no", "yes")) for path in sorted(tmp_path.iterdir())]
    assert len(found) == 4
    assert {one.sha256 for one in found} == {found[0].sha256}
    assert found[0].labels.tolist() == [1, 0]
    both = read_labelled([tmp_path / "1.tsv", tmp_path / "3.jsonl"], OTHER, ("no", "yes"))
    assert len(both) == 4


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.tsv", "", "the file is empty"),
        ("a.tsv", "text\tkind\n", "there is no row in it"),
        ("a.tsv", "text\tlabel\nx\tyes\n", "expected columns text and kind, got text and label"),
        ("a.tsv", "text\tkind\tkind\nx\tyes\tno\n", "expected columns text and kind"),
        ("a.tsv", "text\tkind\nx\tyes\ny\tmaybe\n", "kind: expected no and yes.*'maybe' in row 2"),
        ("a.tsv", "text\tkind\nx\t2\n", "or numbers 0 to 1, got '2' in row 1"),
        ("a.tsv", "text\tkind\nx\t-1\ny\t-1\n", "the labels are hidden"),
        ("a.tsv", "text\tkind\nx\tyes\ty\n", "cannot be read"),
        ("a.jsonl", '{"text": "x", "kind": 1}\n{"text": null, "kind": 0}\n', "got None in row 2"),
        ("a.jsonl", '{"text": 5, "kind": "yes"}\n', "text: expected text, got 5 in row 1"),
        ("a.jsonl", "{", "cannot be read"),
        ("a.parquet", "PAR1", "not a readable parquet file"),
        ("a.txt", "x", r"expected a name that ends in \.tsv, \.csv, \.jsonl or \.parquet"),
    ],
)  # fmt: skip
def test_bad_files_say_what_is_wrong(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=said):
        read_labelled([tmp_path / name], OTHER, ("no", "yes"))


def test_a_file_that_is_not_there_and_scores_that_are_no_numbers(tmp_path):
    with pytest.raises(DataError, match="there is no file"):
        read_labelled([tmp_path / "x.tsv"], OTHER, ())
    for bad in ("x", "nan", ""):
        path = write(tmp_path / "a.tsv", "text\tkind", "a\t1.5", f"b\t{bad}")
        with pytest.raises(DataError, match=r"expected a number, got .* in row 2"):
            read_labelled([path], OTHER, ())


def test_rows_are_drawn_by_the_seed_and_first_texts_make_clusters(tmp_path):
    lines = [f"t{i % 4}\t{i}" for i in range(40)]
    whole = read_labelled([write(tmp_path / "a.tsv", "text\tkind", *lines)], OTHER, ())
    part, again, other = (whole.take(10, seed) for seed in (0, 0, 1))
    assert part.sha256 == again.sha256 != other.sha256
    assert len(part) == 10
    assert (np.diff(part.labels) > 0).all()  # in their order
    assert whole.take(40, 0) is whole
    same = whole.clusters[:, None] == whole.clusters
    assert (same == (np.array(whole.texts)[:, None] == np.array(whole.texts))).all()


def test_real_files(shared_data):
    cola, sst2 = TASKS["cola"], TASKS["sst2"]
    files = [shared_data / "cola" / f"{part}_domain_dev.tsv" for part in ("in", "out_of")]
    found = read_labelled(files, cola.columns, cola.labels)
    assert len(found) == 1043  # GLUE's validation split
    assert found.texts[0] == "The sailors rode the breeze clear of the rocks."
    assert 0.68 < found.labels.mean() < 0.7
    assert len(read_labelled([shared_data / "sst2" / "dev.tsv"], sst2.columns, sst2.labels)) == 872
