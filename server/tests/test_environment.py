"""What `env` reports."""

from __future__ import annotations

import importlib.metadata

import torch

from forebay_worker import environment


def test_every_fact_is_one_line_and_versions_are_those_installed(capsys):
    assert environment.run_env() == 0
    lines = capsys.readouterr().out.splitlines()
    facts = dict(line.split(": ", 1) for line in lines)
    assert facts["torch"] == importlib.metadata.version("torch")
    assert f"{torch.get_num_threads()} threads" in facts["kernels"]
    assert len(facts) == len(lines)


def test_a_package_that_is_absent_is_said_to_be(monkeypatch):
    monkeypatch.setattr(environment, "PACKAGES", ("no-such-package",))
    assert environment.describe()["no-such-package"] == "not installed"


def test_nothing_of_the_environment_variables_is_shown(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert "hf_secret" not in "".join(environment.describe().values())
