"""The tables say what the results say."""

from __future__ import annotations

import json

import pytest

from loads import LOADS, LoadError, checked
from tables import BEGIN, END, best, exactness, markdown, written_anew

SPEED = {"unit": "tokens/s", "higher_is_better": True}
WAIT = {"unit": "s", "higher_is_better": False}


def contender(server, setting, figures, failures=None):
    return {
        "server": server,
        "version": "1",
        "setting": setting,
        "figures": figures,
        "failures": failures or {},
    }


RESULTS = {
    "date": "2026-01-02",
    "commit": "abc",
    "machine": {
        "processor": "P",
        "cores": 2,
        "instruction_sets": ["avx2"],
        "memory_gib": 24,
        "system": "Linux",
    },
    "model": "m.gguf",
    "rounds": 3,
    "seconds": 30.0,
    "loads": {"speed": SPEED, "wait": WAIT},
    "import_torch": {"start_s": [1.0, 3.0, 2.0], "memory_mib": [500.0, 500.0, 500.0]},
    "contenders": [
        contender("forebay", "a", {"speed": [90.0, 110.0, 100.0], "wait": [1.0, 1.0, 1.0]}),
        contender("peer", "b", {"speed": [40.0, 10.0, 20.0], "wait": [4.0, 4.0, 4.0]}),
        contender("peer", "c", {"speed": [50.0, 60.0, 50.0], "wait": [9.0, 9.0]}, {"wait": "cut\nlong story"}),
    ],
    "absent": {"other": "no disk"},
}


def test_the_best_setting_counts_and_only_with_a_figure_of_every_round():
    assert best(RESULTS, "peer", "speed") == 50.0
    assert best(RESULTS, "peer", "wait") == 4.0
    assert best(RESULTS, "other", "wait") is None


def test_a_ratio_above_one_means_that_ours_is_better_whichever_way_is_up():
    text = markdown(RESULTS)
    assert "| speed | tokens/s | 100 | 50 (2.00) |" in text
    assert "| wait | s | 1 | 4 (4.00) |" in text
    assert "`import torch` took 2.00 s and 500 MiB" in text


def test_what_has_no_figure_is_told_with_its_reason():
    text = markdown(RESULTS)
    assert "- other was not measured: no disk" in text
    assert "- peer, c, wait: cut" in text and "long story" not in text


def test_exactness_has_a_row_a_file():
    near = {"agreement": 0.99, "mean_abs_dlogprob": 0.0123}
    far = {"agreement": 0.98, "mean_abs_dlogprob": 0.02}
    text = exactness({"positions": 1234, "files": {"m.gguf": {"ours": near, "llama.cpp": far}}})
    assert "1,234 positions" in text
    assert "| `m.gguf` | 0.9900 | 0.01230 | 0.9800 | 0.02000 |" in text


def test_a_page_keeps_what_is_outside_its_marks():
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert written_anew(page, ["new"]) == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    with pytest.raises(ValueError, match="figures: begin"):
        written_anew("nothing", [])


def run(**changes):
    each = int(LOADS[0].flags[LOADS[0].flags.index("--output-tokens") + 1])
    good = {
        "failures": {"count": 0, "classes": {}},
        "num_ended": 2,
        "tokens": {"output": 2 * each, "num_counted_by_server": 2},
    }
    return json.loads(json.dumps(good | changes))


def test_a_run_with_failures_or_short_answers_has_no_figure():
    assert checked(run(), LOADS[0]) == run()
    failures = {"count": 1, "classes": {"status_429": {"count": 1, "first": "busy"}}}
    for changes, words in [
        ({"failures": failures}, "status_429: busy"),
        ({"num_ended": 0}, "no request ended"),
        ({"num_ended": 3}, "without `usage`"),
        ({"tokens": {"output": 5, "num_counted_by_server": 2}}, "5 tokens"),
    ]:
        with pytest.raises(LoadError, match=words):
            checked(run(**changes), LOADS[0])
