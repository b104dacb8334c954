from __future__ import annotations

from pathlib import Path

import pytest

from dao.data.locate import training_file, validation_file
from dao.errors import InputError


def test_where_the_training_file_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAO_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"a\.parquet: no such file \(set DAO_DATA or give --data\)"):
        training_file("a.parquet", None)
    (tmp_path / "a.parquet").touch()
    assert training_file("a.parquet", None) == tmp_path / "a.parquet"
    monkeypatch.delenv("DAO_DATA")
    assert training_file("a.parquet", tmp_path) == tmp_path / "a.parquet"
    assert training_file("b.parquet", tmp_path / "a.parquet") == tmp_path / "a.parquet"
    # a folder of CIF files is data itself
    assert training_file("b.parquet", tmp_path) == tmp_path
    with pytest.raises(InputError, match=r"c\.parquet: no such file$"):
        training_file("b.parquet", tmp_path / "c.parquet")


def test_where_the_validation_file_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, shards = tmp_path / "data", tmp_path / "shards"
    for folder in (data, shards):
        folder.mkdir()
    monkeypatch.setenv("DAO_DATA", str(data))
    for file in (data / "train.parquet", data / "val.parquet", shards / "shard-00000.parquet"):
        file.touch()
    for given in (None, data, data / "train.parquet", shards, shards / "shard-00000.parquet"):
        assert validation_file("val.parquet", given) == data / "val.parquet"
    (shards / "val.parquet").touch()
    assert validation_file("val.parquet", shards) == shards / "val.parquet"
    for given in (None, data, data / "train.parquet", shards):
        with pytest.raises(InputError, match=r"other\.parquet: no such file \(--set data\.validation_file=FILE names"):
            validation_file("other.parquet", given)
