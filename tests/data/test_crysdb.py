"""CrysDB from a real OPTIMADE server, from providers that fail and from files: counts, bytes, what is asked for."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit
from urllib.request import urlopen

import ase.db
import ase.io
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from optimade_server import entry, reference_server, send, small_server
from toys import DISORDERED, RADII, listing, toy, write_parquet

from dao.cli import main
from dao.crystal import Crystal
from dao.data.crysdb import build
from dao.data.sources import pages
from dao.data.training_set import load_packed
from dao.evaluation.matching import rms_distances
from dao.geometry.cells import niggli_reduce

FIELDS = ["--field", "e_above_hull=_toys_e_above_hull", "--field", "formation_energy=_toys_formation_energy"]


def crystals() -> list[Crystal]:
    """A hundred of two and of five atoms."""
    metals, small = ("Li", "Na", "K", "Rb", "Cs", "Ca", "Sr", "Ba"), ("Ti", "Zr", "Hf", "Al", "Ga")
    five = [
        toy("perovskite", (m, b, x), 2.0 * (RADII[b] + RADII[x]), f"p-{m}{b}{x}")
        for m, b, x in product(metals, small, ("O", "F"))
    ]
    two = [
        toy("rocksalt", (m, x), 2.0 * (RADII[m] + RADII[x]), f"r-{m}{x}")
        for m, x in product(metals[:5], ("F", "Cl", "Br", "I"))
    ]
    return [one for pair in zip(five, two * 4, strict=False) for one in pair][:40] + five[20:]


def energies(count: int) -> list[float | None]:
    return [None if i % 7 == 3 else 0.012 * i for i in range(count)]


CRYSTALS = crystals()
ENERGIES = energies(len(CRYSTALS))
ENTRIES = [
    entry(one, e_above_hull=energy, formation_energy=-1.0) for one, energy in zip(CRYSTALS, ENERGIES, strict=True)
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with reference_server(ENTRIES, tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(pages, "LONGEST_WAIT", 0.01)


def run(sources: Sequence[str], out: Path, *more: str) -> tuple[int, dict[str, Any]]:
    given = [word for source in sources for word in ("--source", source)]
    code = main(["data", "crysdb", "build", *given, "--out", str(out), "--quiet", *more])
    file = out / "crysdb.json"
    return code, json.loads(file.read_text()) if file.exists() else {}


def rows(out: Path) -> list[dict[str, Any]]:
    return [row for file in sorted(out.glob("shard-*.parquet")) for row in pq.read_table(file).to_pylist()]


def count(server: str, query: str) -> int:
    with urlopen(f"{server}/v1/structures?filter={quote(query)}&page_limit=1") as answer:  # noqa: S310 - loopback
        return int(json.load(answer)["meta"]["data_returned"])


def test_a_real_server(server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "db"
    code, report = run([f"optimade:{server}"], out, *FIELDS, "--shard-rows", "30")
    assert code == 0
    # by the server itself, which filters by the energy too
    wanted = count(server, "nsites>=3 AND nsites<=30 AND _toys_e_above_hull<1.0")
    (one,) = report["sources"]
    assert (one["kept"], one["received"]) == (wanted, count(server, "nsites>=3 AND nsites<=30"))
    assert one["received"] == one["stated"] == wanted + sum(one["dropped"].values())
    assert one["dropped"]["no_energy"] == count(server, "nsites>=3 AND _toys_e_above_hull IS UNKNOWN") > 0
    # more than a page of the server (20; it refuses the 100 that are asked for first), and than a shard
    assert one["received"] > 40
    assert [shard["rows"] for shard in report["shards"]] == [30] * (wanted // 30) + [wanted % 30]
    found = rows(out)
    expected = {
        f"toys-{crystal.name}": (crystal, energy)
        for crystal, energy in zip(CRYSTALS, ENERGIES, strict=True)
        if crystal.num_atoms > 2 and energy is not None and energy < 1.0
    }
    assert [row["material_id"] for row in found] == list(expected)
    for row in found:
        crystal, energy = expected[row["material_id"]]
        assert (row["source"], row["e_above_hull_source"], row["num_atoms"]) == ("toys", "database", 5)
        assert row["e_above_hull"] == pytest.approx(energy)
        assert row["formation_energy"] == -1.0
        reduced = niggli_reduce(crystal)
        np.testing.assert_allclose(np.reshape(row["lattice"], (3, 3)), reduced.lattice, atol=1e-5)
        np.testing.assert_array_equal(row["atomic_numbers"], reduced.atomic_numbers)
        off = np.reshape(row["frac_coords"], (-1, 3)) - reduced.frac_coords
        assert np.abs(off - np.rint(off)).max() < 1e-5
    assert f"{wanted} crystals in" in capsys.readouterr().out
    # again: nothing is asked for, nothing changes
    before = listing([out])
    assert run([f"optimade:{server}"], out, *FIELDS, "--shard-rows", "30")[0] == 0
    assert listing([out]) == before
    assert len(load_packed(out)) == wanted


def test_the_server_is_asked_for_elements(server: str, tmp_path: Path) -> None:
    code, report = run([f"optimade:{server}"], tmp_path, *FIELDS, "--elements", "Na,Ti,O,Cl", "--keep-unknown")
    assert code == 0
    (one,) = report["sources"]
    assert [row["material_id"] for row in rows(tmp_path)] == ["toys-p-NaTiO"]
    assert one["received"] == 1


@pytest.mark.skipif("sys.platform == 'win32'")
def test_a_killed_build_ends_with_the_same_files(server: str, tmp_path: Path) -> None:
    source, more = f"optimade:{server}", [*FIELDS, "--page-limit", "3", "--shard-rows", "25"]
    assert run([source], tmp_path / "whole", *more)[0] == 0
    out = tmp_path / "killed"
    arguments = ["data", "crysdb", "build", "--source", source, "--out", str(out), "--quiet", *more]
    for kill_after in (3, 9):
        process = subprocess.Popen([sys.executable, "-c", "import sys; from dao.cli import main; main()", *arguments])
        deadline = time.monotonic() + 120
        while sum(file.read_bytes().count(b"\n") for file in out.glob(".work/*/pages.jsonl")) < 1 + kill_after:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (out / "crysdb.json").exists()
    assert main(arguments) == 0
    names = {file.name for file in out.iterdir()}
    assert names == {file.name for file in (tmp_path / "whole").iterdir()} >= {"crysdb.json", "shard-00002.parquet"}
    for name in names:
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


class Provider:
    """Forty crystals, four at a time, behind an address that can be told to fail."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.fail: Callable[[BaseHTTPRequestHandler, int], bool] = lambda _handler, _offset: False

    def __call__(self, handler: BaseHTTPRequestHandler, path: str) -> None:
        url = urlsplit(path)
        if url.path.endswith("/info"):
            send(handler, {"data": {}, "meta": {"provider": {"prefix": "toys"}}})
            return
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        start = int(query.get("page_offset", "0"))
        self.asked.append(f"{start}")
        if self.fail(handler, start):
            return
        some = [
            entry(one, "_toys_", e_above_hull=energy)
            for one, energy in zip(CRYSTALS[:40], ENERGIES, strict=False)
            if one.num_atoms > 2
        ]
        following = f"/v1/structures?page_offset={start + 4}" if start + 4 < len(some) else None
        meta = {"data_returned": len(some)}
        send(handler, {"data": some[start : start + 4], "links": {"next": {"href": following}}, "meta": meta})


def failing(kind: str) -> Callable[[BaseHTTPRequestHandler, int], bool]:
    """Fail at the third page and all after it."""

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(20):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)

    ways: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {
        "error": lambda handler: send(handler, {"errors": [{"detail": "no"}]}, 500),
        "busy": lambda handler: send(handler, b"", 429, Retry_After="3000"),
        "refusal": lambda handler: send(handler, {"errors": [{"detail": "go away"}]}, 404),
        "timeout": lambda _handler: time.sleep(0.5),
        "drip": drip,
        "cut": lambda handler: send(handler, b'{"data": []', Content_Length="400"),
        "hang up": lambda handler: handler.connection.shutdown(socket.SHUT_RDWR),
    }

    def fail(handler: BaseHTTPRequestHandler, offset: int) -> bool:
        if offset >= 8:
            way = ways.get(kind)
            send(handler, RUBBISH[kind]) if way is None else way(handler)
        return offset >= 8

    return fail


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The shards that a provider which never fails gives, and ten crystals of a file."""
    folder = tmp_path_factory.mktemp("whole")
    write_parquet(folder / "local.parquet", CRYSTALS[50:60], e_above_hull=[0.1] * 10)
    with small_server(Provider()) as url:
        assert run([f"optimade:{url}", str(folder / "local.parquet")], folder / "out", *FIELDS)[0] == 0
    return shards(folder / "out")


def shards(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in out.glob("shard-*.parquet")}


RUBBISH: dict[str, Any] = {
    "html": b"<html>Bad gateway</html>",
    "bytes": bytes(range(256)),
    "list": [],
    "no data": {"meta": {}},
    "data is text": {"data": "nonsense"},
    "data is null": {"data": None},
    "links are text": {"data": [], "links": "nonsense"},
    "next is a number": {"data": [], "links": {"next": 3}},
    "empty, but more": {"data": [], "links": {"next": "/v1/structures?page_offset=9"}},
    "a circle": {"data": [3], "links": {"next": "/v1/structures?page_offset=8"}},
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("kind", ["error", "busy", "refusal", "timeout", "drip", "cut", "hang up", *RUBBISH])
def test_a_provider_that_fails_leaves_the_rest(
    kind: str, whole: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    provider, local = Provider(), tmp_path / "local.parquet"
    write_parquet(local, CRYSTALS[50:60], e_above_hull=[0.1] * 10)
    with small_server(provider) as url:
        sources = [f"optimade:{url}", str(local)]
        more = [*FIELDS, "--attempts", "2", "--timeout", "0.2"]
        provider.fail = failing(kind)
        out = tmp_path / "out"
        code, report = run(sources, out, *more)
        assert code == 3
        err = capsys.readouterr().err
        # a circle shows when the page comes again
        assert err.startswith(f"optimade:{url}: page {3 if kind == 'a circle' else 2}: ")
        (failure,) = json.loads((out / "failures.json").read_text())
        assert failure["source"] == sources[0]
        assert failure["error"] in err
        assert "\n" not in failure["error"]
        assert [source["complete"] for source in report["sources"]] == [False, True]
        assert report["sources"][1]["kept"] == 10
        assert {row["material_id"] for row in rows(out)} >= {one.name for one in CRYSTALS[50:60]}
        # two pages, and what the third was tried
        retried = 1 if kind in {"refusal", "links are text", "next is a number", "empty, but more", "a circle"} else 2
        assert provider.asked == ["0", "4", *["8"] * retried]
        if kind == "a circle":
            return
        provider.fail = lambda _handler, _offset: False
        provider.asked.clear()
        assert run(sources, out, *more)[0] == 0
        assert provider.asked == ["8", "12", "16"]
    assert {file.name for file in out.iterdir()} == {"crysdb.json", *whole}
    assert shards(out) == whole


def test_a_provider_whose_name_cannot_be_asked_loses_no_entries(tmp_path: Path) -> None:
    provider, silent = Provider(), [False]
    provider.fail = failing("error")

    def answer(handler: BaseHTTPRequestHandler, path: str) -> None:
        if silent[0] and urlsplit(path).path.endswith("/info"):
            send(handler, {}, 503)
        else:
            provider(handler, path)

    with small_server(answer) as url:
        more = [*FIELDS, "--attempts", "1"]
        assert run([f"optimade:{url}"], tmp_path, *more)[0] == 3
        # the pages go on, but nothing says whose they are
        provider.fail, silent[0] = lambda _handler, _offset: False, True
        code, report = run([f"optimade:{url}"], tmp_path, *more)
        assert (code, report["sources"][0]["received"]) == (3, 8)
        silent[0] = False
        code, report = run([f"optimade:{url}"], tmp_path, *more)
    assert (code, report["sources"][0]["received"]) == (0, 20)
    assert "unreadable" not in report["sources"][0]["dropped"]


def test_a_provider_that_recovers_is_not_given_up(tmp_path: Path) -> None:
    provider = Provider()
    provider.fail = lambda handler, offset: provider.asked.count(f"{offset}") < 3 and failing("error")(handler, 8)
    with small_server(provider) as url:
        code, report = run([f"optimade:{url}"], tmp_path, *FIELDS, "--attempts", "3")
    assert code == 0
    assert report["sources"][0]["received"] == 20


def test_a_provider_that_knows_neither_has_only_nor_that_many(tmp_path: Path) -> None:
    asked: list[dict[str, list[str]]] = []

    def answer(handler: BaseHTTPRequestHandler, path: str) -> None:
        if path.endswith("/info"):
            send(handler, {"data": {}})
            return
        asked.append(parse_qs(urlsplit(path).query))
        if "HAS ONLY" in asked[-1]["filter"][0]:
            send(handler, {"errors": [{"detail": "not implemented"}]}, 501)
        elif "page_limit" in asked[-1]:
            send(handler, {}, 403)
        else:
            send(handler, {"data": ENTRIES})

    with small_server(answer) as url:
        code, report = run([f"optimade:{url}/v1"], tmp_path, "--elements", "Na,Ti,O", "--keep-unknown")
        host = urlsplit(url).netloc
    assert code == 0
    assert len(asked) == 4
    assert asked[-1]["filter"] == ["nsites>=3 AND nsites<=30"]
    # it does not say its prefix
    assert [row["material_id"] for row in rows(tmp_path)] == [f"{host}-p-NaTiO"]
    assert report["sources"][0]["dropped"]["elements"] > 50


def test_entries_that_are_no_crystals(tmp_path: Path) -> None:
    def broken(**attributes: Any) -> dict[str, Any]:
        one = entry(CRYSTALS[0], "_toys_", e_above_hull=0.1)
        return one | {"attributes": one["attributes"] | attributes}

    mixed = [{"name": "Ti", "chemical_symbols": ["Ti", "Zr"], "concentration": [0.5, 0.5]}]
    bad = [
        3,
        {"id": "no-attributes"},
        {"id": None, "attributes": {}},
        {"id": "empty", "attributes": {}},
        broken(dimension_types=[1, 1, 0]),
        broken(species=mixed),
        broken(species=[{"name": "Ti", "chemical_symbols": ["vacancy"], "concentration": [1.0]}]),
        broken(species_at_sites=["Ti"]),
        broken(lattice_vectors=[[1, 0, 0], [2, 0, 0], [0, 0, 1]]),
        broken(lattice_vectors=[[None, 0, 0], [2, 0, 0], [0, 0, 1]]),
        broken(cartesian_site_positions="nonsense"),
        broken(structure_features=["assemblies"]),
        broken(structure_features="implicit_atoms"),
    ]

    def answer(handler: BaseHTTPRequestHandler, path: str) -> None:
        data = {} if path.endswith("/info") else [*bad, broken(), broken(cartesian_site_positions=[[0, 0, 0]] * 5)]
        send(handler, {"data": data, "meta": {"provider": {"prefix": "toys"}}})

    with small_server(answer) as url:
        code, report = run([f"optimade:{url}"], tmp_path, *FIELDS)
    assert code == 0
    (one,) = report["sources"]
    # five atoms in one place are a structure, but no crystal
    assert (one["kept"], one["dropped"]) == (1, {"invalid": 1, "unreadable": len(bad)})
    assert "atoms 0 A apart" in one["examples"]["invalid"][0]


def test_files_of_every_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAO_DATA", str(tmp_path))
    some = CRYSTALS[50:58]
    write_parquet(tmp_path / "named.parquet", some[:2], e_above_hull=[0.5, 1.0], e_above_hull_source=["hull:a", None])
    frames = []
    for one in some[2:4]:
        atoms = one.to_atoms()
        atoms.info = {"material_id": one.name, "e_above_hull": 0.25, "formation_energy": -2.0}
        frames.append(atoms)
    ase.io.write(tmp_path / "frames.extxyz", frames)
    with ase.db.connect(tmp_path / "rows.db") as database:  # type: ignore[no-untyped-call]
        database.write(some[4].to_atoms(), key_value_pairs={"material_id": some[0].name, "e_above_hull": 0.1})
        database.write(some[4].to_atoms(), key_value_pairs={"material_id": some[4].name, "e_above_hull": -0.1})
    folder = tmp_path / "cifs"
    folder.mkdir()
    some[5].to_structure().to(str(folder / "a.cif"))
    (folder / "b.cif").write_text(DISORDERED)
    sources = ["named", *(str(tmp_path / name) for name in ("frames.extxyz", "rows.db", "cifs"))]
    out = tmp_path / "out"
    code, report = run(sources, out, "--keep-unknown")
    assert code == 0
    assert [source["dropped"] for source in report["sources"]] == [
        {"e_above_hull": 1}, {}, {"repeated_id": 1}, {"unreadable": 1}
    ]  # fmt: skip
    found = rows(out)
    names = [row["material_id"] for row in found]
    assert names == [some[0].name, some[2].name, some[3].name, some[4].name, "a"]
    assert [row["source"] for row in found] == ["named", "frames", "frames", "rows", "cifs"]
    assert [row["e_above_hull_source"] for row in found] == ["hull:a", "database", "database", "database", None]
    assert [row["e_above_hull"] for row in found] == pytest.approx([0.5, 0.25, 0.25, 0.0, None])
    packed = load_packed(out)
    originals = [some[0], some[2], some[3], some[4], some[5]]
    distances = rms_distances([(packed.crystal(i), one) for i, one in enumerate(originals)])
    assert max(1.0 if one is None else one for one in distances) < 1e-3
    # a folder of shards is a source like others, and nothing is lost on the way
    assert run([str(out)], tmp_path / "again", "--keep-unknown")[0] == 0
    assert rows(tmp_path / "again") == found


def test_large_files_come_in_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dao.data.sources import local

    path = tmp_path / "many.parquet"
    write_parquet(path, CRYSTALS, e_above_hull=ENERGIES)
    assert run([str(path)], tmp_path / "one")[0] == 0
    monkeypatch.setattr(local, "AT_ONCE", 7)
    stop = local.LocalSource.fetch
    calls: list[str | None] = []

    def interrupted(source: local.LocalSource, cursor: str | None) -> pages.Page:
        calls.append(cursor)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return stop(source, cursor)

    monkeypatch.setattr(local.LocalSource, "fetch", interrupted)
    assert run([str(path)], tmp_path / "seven")[0] == 130
    assert run([str(path)], tmp_path / "seven")[0] == 0
    assert calls[:6] == [None, "7", "14", "21", "21", "28"]
    for file in (tmp_path / "one").iterdir():
        assert (tmp_path / "seven" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("step", ["report", "clearing"])
def test_a_build_killed_at_its_end_goes_on(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "some.parquet"
    write_parquet(path, CRYSTALS, e_above_hull=ENERGIES)
    assert run([str(path)], tmp_path / "whole")[0] == 0

    def killed(folder: Path, *_: object, **__: object) -> None:
        if folder.exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*((build, "_write") if step == "report" else (shutil, "rmtree")), killed)
        assert run([str(path)], tmp_path / "killed")[0] == 130
    assert list((tmp_path / "killed").glob("shard-*"))
    assert run([str(path)], tmp_path / "killed")[0] == 0
    names = {file.name for file in (tmp_path / "whole").iterdir()}
    assert {file.name for file in (tmp_path / "killed").iterdir()} == names
    for name in names:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def stub_of_mp_api(folder: Path) -> None:
    (folder / "mp_api").mkdir()
    (folder / "mp_api" / "__init__.py").touch()
    (folder / "mp_api" / "client.py").write_text(
        "import json, pathlib\n"
        "class MPRester:\n"
        "    def __init__(self, key, **how):\n"
        "        assert how == {'use_document_model': False, 'mute_progress_bars': True}\n"
        "        self.key, self.materials, self.summary = key, self, self\n"
        "    def __enter__(self): return self\n"
        "    def __exit__(self, *_): pass\n"
        "    def search(self, num_sites, deprecated, all_fields, fields):\n"
        "        if self.key == 'wrong': raise RuntimeError('bad key wrong')\n"
        "        found = json.loads((pathlib.Path(__file__).parent / 'data.json').read_text())\n"
        "        return [one for one in found if num_sites[0] <= one['nsites'] <= num_sites[1]]\n"
    )
    documents = [
        {
            "material_id": f"mp-{i}",
            "nsites": one.num_atoms,
            "structure": one.to_structure().as_dict(),
            "formation_energy_per_atom": -1.5,
            "energy_above_hull": energy,
            "band_gap": 2.0,
        }
        for i, (one, energy) in enumerate(zip(CRYSTALS, ENERGIES, strict=True))
    ]
    (folder / "mp_api" / "data.json").write_text(json.dumps(documents))


def test_the_materials_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MP_API_KEY", raising=False)
    out = tmp_path / "out"
    assert run(["mp"], out)[0] == 2
    assert "pip install '.[mp]'" in capsys.readouterr().err
    stub_of_mp_api(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert run(["mp"], out)[0] == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "MP_API_KEY" in err
    assert not out.exists()
    monkeypatch.setenv("MP_API_KEY", "wrong")
    assert run(["mp"], out, "--attempts", "2")[0] == 3
    err = capsys.readouterr().err
    assert "bad key ***" in err
    assert "wrong" not in err + (out / "failures.json").read_text()
    monkeypatch.setenv("MP_API_KEY", "right")
    code, report = run(["mp"], out)
    assert code == 0
    wanted = sorted(
        f"mp-{i}"
        for i, (one, energy) in enumerate(zip(CRYSTALS, ENERGIES, strict=True))
        if one.num_atoms > 2 and energy is not None and energy < 1
    )
    found = rows(out)
    assert [row["material_id"] for row in found] == wanted
    assert {(row["source"], row["formation_energy"], row["band_gap"]) for row in found} == {("mp", -1.5, 2.0)}
    assert report["sources"][0]["dropped"].keys() == {"e_above_hull", "no_energy"}


@pytest.mark.parametrize(
    ("sources", "more", "message"),
    [
        (["nope"], [], "'nope': neither a file or folder"),
        (["optimade:ftp://x"], [], "no http(s) address"),
        (["optimade:"], [], "no http(s) address"),
        (["@", "@"], [], "given twice"),
        (["@"], ["--elements", "Xx"], "'Xx' is no element"),
        (["@"], ["--field", "energy=_x"], "write LABEL=PROPERTY"),
        (["@"], ["--min-atoms", "9", "--max-atoms", "3"], "--max-atoms 3 is less"),
        (["@"], ["--e-above-hull-below", "nan"], "no finite number"),
        (["@"], ["--timeout", "nan"], "timeout"),
        ([], [], "--source"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    sources: list[str], more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    local = tmp_path / "local.parquet"
    write_parquet(local, CRYSTALS[:3])
    assert run([str(local) if one == "@" else one for one in sources], tmp_path / "out", *more)[0] == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
    assert not (tmp_path / "out").exists()


def test_other_settings_do_not_overwrite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    local = tmp_path / "local.parquet"
    write_parquet(local, CRYSTALS[50:60], e_above_hull=[0.1] * 10)
    assert run([str(local)], tmp_path / "out")[0] == 0
    before = listing([tmp_path / "out"])
    assert run([str(local)], tmp_path / "out", "--max-atoms", "20")[0] == 2
    assert "made with other filters" in capsys.readouterr().err
    write_parquet(local, CRYSTALS[51:60], e_above_hull=[0.1] * 9)
    assert run([str(local)], tmp_path / "out")[0] == 2
    assert listing([tmp_path / "out"]) == before


@pytest.mark.science
def test_the_pool_gives_what_an_independent_query_gives(data_dir: Path, tmp_path: Path) -> None:
    code, report = run([str(data_dir / "mp_pool.parquet")], tmp_path)
    assert code == 0
    table = pq.read_table(data_dir / "mp_pool.parquet")
    sized = table.filter(pc.and_(pc.greater_equal(table["num_atoms"], 3), pc.less_equal(table["num_atoms"], 30)))
    known = sized.filter(pc.is_valid(sized["e_above_hull"]))
    near = known.filter(pc.less(known["e_above_hull"], 1.0))
    (one,) = report["sources"]
    dropped = one["dropped"]
    assert one["received"] == table.num_rows
    assert dropped["num_atoms"] == table.num_rows - sized.num_rows
    assert dropped["no_energy"] == sized.num_rows - known.num_rows
    assert dropped["e_above_hull"] == known.num_rows - near.num_rows
    lattice = np.stack(near["lattice"].to_numpy(zero_copy_only=False)).reshape(-1, 3, 3).astype(float)
    empty = np.abs(np.linalg.det(lattice)) / near["num_atoms"].to_numpy() > 300
    assert dropped["invalid"] == empty.sum()
    assert one["kept"] == report["rows"] == near.num_rows - empty.sum()
    names = np.array(near["material_id"].to_pylist())
    assert [row["material_id"] for row in rows(tmp_path)] == names[~empty].tolist()
