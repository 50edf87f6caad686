"""Headers of pages: what they say is what was written, however it was."""

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from outdim.corpus.parquet_pages import Page, pages

TEXTS = [f"{i % 700} " + "x" * (i % 300) for i in range(5000)]


def found(file: Any, column: int = 0) -> list[list[Page]]:
    metadata = pq.ParquetFile(file).metadata
    chunks = (metadata.row_group(i).column(column) for i in range(metadata.num_row_groups))
    return [list(pages(file, chunk)) for chunk in chunks]


@pytest.mark.parametrize("compression", [None, "snappy", "zstd"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("dictionary", [False, True])
@pytest.mark.parametrize("checksums", [False, True])
def test_they_add_up_to_what_the_footer_says(
    compression: str | None, version: str, dictionary: bool, checksums: bool
) -> None:
    file = io.BytesIO()
    pq.write_table(
        pa.table({"n": range(5000), "text": TEXTS}),
        file,
        row_group_size=2000,
        compression=compression,
        data_page_version=version,
        use_dictionary=dictionary,
        write_page_checksum=checksums,
        data_page_size=20_000,
        write_batch_size=100,
    )
    metadata = pq.ParquetFile(file).metadata
    for number, group in enumerate(found(file, 1)):
        chunk = metadata.row_group(number).column(1)
        assert sum(page.values for page in group if not page.is_dictionary) == chunk.num_values
        unpacked = sum(page.unpacked_bytes for page in group)
        headers = chunk.total_uncompressed_size - unpacked
        assert 10 * len(group) < headers < 1000 * len(group)  # with the least and the largest
        assert [page.is_dictionary for page in group].count(True) == dictionary
        assert all(page.by_dictionary for page in group) == dictionary
        assert len(group) > 5 or dictionary


def test_a_dictionary_that_is_left() -> None:
    file = io.BytesIO()
    texts = [f"{i} " + "x" * 100 for i in range(20_000)]
    pq.write_table(pa.table({"text": texts}), file)
    (group,) = found(file)
    assert group[0].is_dictionary
    assert not all(page.by_dictionary for page in group)
    assert group[1].by_dictionary


def test_values_that_repeat_the_one_before() -> None:
    file = io.BytesIO()
    encoding = {"text": "DELTA_BYTE_ARRAY"}
    pq.write_table(pa.table({"text": TEXTS}), file, use_dictionary=False, column_encoding=encoding)
    assert all(page.by_prefix for page in found(file)[0])


def test_damage_ends_them_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"text": TEXTS})
    pq.write_table(table, path, use_dictionary=False, data_page_size=20_000, write_batch_size=100)
    content = path.read_bytes()
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(0)
    whole = list(pages(io.BytesIO(content), chunk))
    assert len(whole) > 10
    for place in range(chunk.data_page_offset, chunk.data_page_offset + 40):
        for bit in range(8):
            broken = bytearray(content)
            broken[place] ^= 1 << bit
            assert len(list(pages(io.BytesIO(bytes(broken)), chunk))) <= 5000
    cut = list(pages(io.BytesIO(content[: chunk.total_compressed_size // 2]), chunk))
    assert cut == whole[: len(cut)]
    assert 0 < len(cut) < len(whole)
    assert list(pages(io.BytesIO(b"\xff" * 10_000), chunk)) == []
    assert list(pages(io.BytesIO(b"\x1c" * 10_000), chunk)) == []  # structs in structs, for ever


def test_fields_that_no_header_has_are_skipped_as_readers_skip_them():
    inside = b"\x15\x06\x15\x00\x00"  # three values, plainly encoded
    header = b"\x15\x00\x15\x80\x01\x15\x08" + b"\x2c" + inside
    strange = {
        "list": b"\x19\x35\x02\x04\x06",  # of three numbers
        "long list": b"\x19\xf3\x10" + b"\x07" * 16,
        "truths": b"\x1a\x21\x01\x02",
        "map": b"\x1b\x01\x58\x02\x01a",  # of a number to a text
        "no map": b"\x1b\x00",
        "wide number": b"\x16" + b"\xff" * 9 + b"\x01",
    }

    class Chunk:
        data_page_offset, has_dictionary_page, num_values = 0, False, 6

    for name, field in strange.items():
        page = header + field + b"\x00" + b"body"
        assert list(pages(io.BytesIO(page * 2), Chunk)) == [Page(64, 3, 0, False)] * 2, name
