"""What several runs share."""

import os

import pytest

from rsd.summary import check_collection, check_own, mean, one_network, write_csv


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
    assert one_network(["a", "a"]) is None and one_network([]) is None
    assert "(None, a)" in one_network(["a", None, "a"])


def test_a_folder_for_runs_holds_runs_and_summaries_only(tmp_path):
    check_collection(tmp_path / "absent", resume=False)
    (tmp_path / "summary.json").touch()
    (tmp_path / ".summary.csv.part").touch()
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / ".config.yaml.part").touch()
    check_collection(tmp_path, resume=True)
    with pytest.raises(ValueError, match="holds other runs"):
        check_collection(tmp_path, resume=False)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").touch()
    with pytest.raises(ValueError, match=r"holds other files \(photos, ...\)"):
        check_collection(tmp_path, resume=True)
    check_own(tmp_path, ["summary.json", "summary.csv", "begun", "photos"])
