"""What several runs share."""

import os

import pytest

from rsd.runs.summary import format_means, mean, mixed_networks, write_csv


def test_a_table_is_written_in_one_piece(tmp_path, monkeypatch):
    file = tmp_path / "t.csv"
    write_csv(file, [{"a": "x, y", "b": None}, {"a": "z", "b": 0.5}], ["a", "b"])
    assert file.read_bytes() == b'a,b\r\n"x, y",\r\nz,0.5\r\n'

    def full(*paths):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        write_csv(file, [], ["c"])
    assert file.read_bytes().startswith(b"a,b") and [p.name for p in tmp_path.iterdir()] == ["t.csv"]


def test_means_are_over_what_is_known():
    assert mean([1.0, None, 2.0]) == 1.5 and mean([None]) is None and mean([]) is None
    assert mixed_networks(["a", "a"]) is None and mixed_networks([]) is None
    assert "(None, a)" in mixed_networks(["a", None, "a"])


def test_a_mean_says_of_how_many_it_is():
    rows = [{"div": 0.1, "agreement": 1.0, "janus": None}, {"div": 0.3, "agreement": None, "janus": None}]
    means = {"div": 0.2, "agreement": 1.0, "janus": None}
    assert format_means(rows, means) == "div 0.2, agreement 1 (of 1 of 2)"
