from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from dao.evaluation.published import Published, published


def one(**wanted: Any) -> Published:
    found = [row for row in published() if all(getattr(row, key) == value for key, value in wanted.items())]
    assert len(found) == 1, found
    return found[0]


@pytest.mark.parametrize(
    ("method", "dataset", "k", "match_rate", "rmse"),
    [
        ("P-cG-SchNet", "MPTS-52", 20, 12.96, 0.3942),
        ("CDVAE", "MP-20", 1, 33.90, 0.1045),
        ("DiffCSP", "MP-20", 20, 77.93, 0.0492),
        ("EquiCSP", "MPTS-52", 1, 14.85, 0.1169),
        ("FlowMM", "MPTS-52", 20, 34.05, 0.1813),
        ("CrystalFlow", "MP-20", 1, 62.02, 0.0710),
        ("DAO-G (w/o pretrain)", "MP-20", 1, 51.55, 0.0915),
        ("DAO-G (w/o finetune)", "MPTS-52", 1, 30.32, 0.0715),
        ("DAO-G", "MP-20", 20, 82.68, 0.0279),
        ("DAO-G", "MPTS-52", 20, 46.78, 0.0795),
    ],
)
def test_table_1(method: str, dataset: str, k: int, match_rate: float, rmse: float) -> None:
    row = one(method=method, dataset=dataset, k=k, filter="filtered")
    assert (row.match_rate, row.rmse, row.grade) == (match_rate, rmse, "A")
    assert "Table 1" in row.source


def test_table_2_with_deviations() -> None:
    row = one(method="DAO-G (Stages I+II, w/ guidance)", dataset="MPTS-52")
    assert (row.k, row.match_rate, row.match_rate_sd, row.rmse, row.rmse_sd) == (1, 32.78, 0.06, 0.0688, 0.0023)


def test_project_page() -> None:
    best = one(method="Crysformer + FlowMM", dataset="MP-20")
    assert (best.match_rate, best.rmse, best.parameters) == (74.17, 0.0400, "25.2M")
    assert best.filter == "unknown"
    assert best.pretraining.startswith("CrysDB")
    assert one(method="Crysformer + FlowMM", dataset="MPTS-52").match_rate == 42.01


def test_best_without_more_data() -> None:
    assert one(method="Crystalite", dataset="MP-20", filter="filtered").match_rate == 66.09
    assert one(method="MaskGXT", dataset="MP-20").metre == 74.78
    assert one(method="OMatG", dataset="MP-20", filter="unfiltered").match_rate == 69.83
    assert one(method="KLDM", dataset="MP-20").filter == "likely unfiltered"
    split_by_polymorphs = one(method="Crystalite", dataset="MP-20-ps")
    assert (split_by_polymorphs.match_rate, split_by_polymorphs.crmse) == (None, 0.174)


def test_every_row_is_plausible_and_says_where_it_is_from() -> None:
    rows = published()
    assert len(rows) > 80
    assert len({(row.method, row.dataset, row.k, row.filter) for row in rows}) == len(rows)
    for row in rows:
        assert len(row.source) > 20 or row.grade == "C"
        assert row.filter
        assert row.pretraining
        rates = [rate for rate in (row.match_rate, row.metre) if rate is not None]
        assert rates
        assert all(1 < rate < 100 for rate in rates)
        assert all(0 < rmse < 0.5 for rmse in (row.rmse, row.crmse) if rmse is not None)


def test_more_samples_match_more() -> None:
    for many in published(k=20):
        once = one(method=many.method, dataset=many.dataset, k=1, filter=many.filter)
        assert once.match_rate is not None
        assert many.match_rate is not None
        assert many.match_rate > once.match_rate


def test_a_filter_only_takes_away() -> None:
    pairs = 0
    for row in published():
        for other in published(row.dataset, row.k):
            if (row.method, row.filter, other.filter) == (other.method, "filtered", "unfiltered"):
                assert row.match_rate is not None
                assert other.match_rate is not None
                assert 0.9 < row.match_rate / other.match_rate < 0.92
                pairs += 1
    assert pairs == 7


def test_selection() -> None:
    assert {row.dataset for row in published("MPTS-52")} == {"MPTS-52"}
    assert {row.k for row in published(k=20)} == {20}
    assert {(row.dataset, row.k) for row in published("MP-20", 20)} == {("MP-20", 20)}
    assert {row.dataset for row in published()} == {"MP-20", "MPTS-52", "MP-20-ps"}
    assert published("Perov-5") == []


def test_unknown_keys_are_refused() -> None:
    row = {"method": "x", "dataset": "MP-20", "filter": "filtered", "source": "x", "grade": "A"}
    assert TypeAdapter(Published).validate_python(row).k == 1
    with pytest.raises(ValidationError, match="rsme"):
        TypeAdapter(Published).validate_python(row | {"rsme": 0.1})
