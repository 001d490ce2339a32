"""The committed report of `rsd reproduce all` is small and complete, and agrees with the package and with
docs/reproduction.md."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from rsd.tasks.reproduce.command import MEASURED
from rsd.tasks.reproduce.experiments import ENTRIES
from rsd.tasks.reproduce.outcome import headline
from rsd.tasks.reproduce.verdict import STATES, state_of

ROOT = Path(__file__).parents[2]
REPORT = ROOT / "docs" / "report"
PAGES = sorted(REPORT.glob("**/*.html"))
SUMMARY = json.loads(MEASURED.read_text(encoding="utf-8"))
PAGE_OF_ALL = (REPORT / "report.html").read_text(encoding="utf-8")
EXPERIMENTS = {row["name"]: row for row in SUMMARY["experiments"]}


def test_the_report_has_every_experiment_and_is_small():
    assert list(EXPERIMENTS) == [entry.name for entry in ENTRIES] and SUMMARY["scale"] == "builtin"
    assert {page.parent.name for page in PAGES} == {"report", *EXPERIMENTS}
    assert sum(file.stat().st_size for file in REPORT.rglob("*") if file.is_file()) < 15e6


def test_every_claim_was_measured_or_has_a_reason():
    assert not any(row["failed"] for row in EXPERIMENTS.values())
    for entry in ENTRIES:
        claims = EXPERIMENTS[entry.name]["claims"]
        assert [claim["claim"] for claim in claims] == [claim.text for claim in entry.expected("builtin")]
        assert all(claim["held"] or claim["reason"] for claim in claims), entry.name


def test_a_held_claim_is_beyond_noise():
    for row in EXPERIMENTS.values():
        for claim in row["claims"]:
            measured = claim["measured"]
            state, clear = state_of(measured["by"], len(measured["rising"]) - 1, measured["differences"])
            assert (claim["state"], claim["clear"]) == (state, clear), claim["claim"]
            assert claim["held"] is {"held": True, "not held": False}.get(state)
        page = (REPORT / row["name"] / "report.html").read_text(encoding="utf-8")
        states = [claim["state"] for claim in row["claims"]]
        for state, badge in (("held", "✓ held"), ("not held", "✗ did not hold"), ("undecided", "? undecided")):
            assert page.count(f">{badge}<") == states.count(state), row["name"]
        assert {state: row[state.replace(" ", "_")] for state in STATES} == {s: states.count(s) for s in STATES}
    assert headline([c for row in EXPERIMENTS.values() for c in row["claims"]]) in PAGE_OF_ALL


def test_no_column_is_cut_on_a_phone():
    """Below 720 px rows become blocks, whose figures carry the names of their columns."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert "@media (max-width: 720px)" in text
        assert not re.findall(r'<td class="n[^"]*">', text), page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_a_page_is_self_contained_and_names_no_local_path(page):
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', text)
    assert "not examined yet" not in text and not re.search(r"[ '\"](/work|/home|/root|/tmp)/", text)


def test_the_documents_give_its_figures():
    text = (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8")
    claims = [claim for row in EXPERIMENTS.values() for claim in row["claims"]]
    assert headline(claims) in text.replace("\n", " ")
    held, not_held, undecided = ([claim["state"] for claim in claims].count(state) for state in STATES[:3])
    output = f"{held} held, {not_held} did not and {undecided} are undecided"
    assert output in (ROOT / "README.md").read_text(encoding="utf-8").replace("\n", " ")
    table = re.findall(r"^\| (\w+): .*? \| ([^|]*) \| ([^|]*) \|$", text, re.M)
    assert len(table) >= 5
    for name, *cells in table:
        values = [value for claim in EXPERIMENTS[name]["claims"] for value in claim["measured"]["values"].values()]
        for output in re.findall(r"\d+\.\d+", " ".join(cells)):
            digits = len(output.partition(".")[2])
            assert any(f"{value:.{digits}f}" == output for value in values), (name, output)
