"""The comparison with the peer: figures of one job are not shown as those of another."""

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from anomalib_lite.data.layouts import mvtec_ad
from benchmarks import peer
from tests.made import write_category


def test_only_the_same_job_and_our_same_commit_are_resumed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    asked: list[tuple[str, str]] = []

    def run(side: str, task: str, *_: Any) -> dict[str, Any]:
        if task in ("prepare", "maps"):
            return {"positions": 4, "images": 100, "tested": 10, "peak_mb": len(asked)}
        asked.append((side, task))
        return {"peak_mb": 1} if task != "limits" else {"flop_per_s": 1e9}

    monkeypatch.setattr(peer, "run", run)
    monkeypatch.setattr(peer, "our_commit", lambda: commit)
    given = {"data": tmp_path, "goal": 1, "epochs": 1, "repeats": 1, "only": ["evaluate", "limits"]}

    def measured(**more: Any) -> tuple[int, list[Any]]:
        """The number of new measurements, and the rows that are shown."""
        before, args = len(asked), argparse.Namespace(**given | {"category": "bottle", "shots": None} | more)
        job = peer.measure(args, Path("python"), tmp_path, tmp_path / "results")
        return len(asked) - before, peer.of_job(peer.read(tmp_path / "results"), *job)

    given["sides"], commit = ["ours", "peer"], "a"
    new, first = measured()
    assert new == 3 and measured() == (0, first) and "flop_per_s" in "".join(peer.tables(first))
    for other in ({"category": "cable"}, {"shots": 4}):
        new, rows = measured(**other)
        assert new == len(rows) == 3 and not any(row in first for row in rows)
    commit = "b"
    new, rows = measured()
    assert new == 2 and [row["side"] for row in rows if row in first] == ["peer"]


def test_links_to_earlier_data_are_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "job.json").write_text(json.dumps({}))
    monkeypatch.setattr(sys, "argv", ["our_side.py", "prepare", str(tmp_path / "job.json")])
    ours = importlib.import_module("benchmarks.peers.our_side")
    for name, count in (("bottle", 8), ("cable", 5)):
        write_category(tmp_path / "sets" / name, train=count, good=2, defects={name: 1})
        ours.link_data(tmp_path / "data", splits := mvtec_ad(tmp_path / "sets", name))
    assert sum(path.is_file() for path in (tmp_path / "data").rglob("*.png")) == len(splits.train + splits.test) + 1
    assert {path.name for path in (tmp_path / "data/test").iterdir()} == {"good", "cable"}
    assert len(list((tmp_path / "sets/bottle").rglob("*.png"))) == 12
