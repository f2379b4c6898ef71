from __future__ import annotations

import os

import pytest
import torch

from quire.services.worker.device import choose_placement, choose_threads, usable_cpus
from quire.shared import model_files

ALL = len(os.sched_getaffinity(0))


def test_a_tiny_model_computes_in_one_thread():
    assert choose_threads(1 << 20) == 1


@pytest.mark.parametrize("text", ["max 100000\n", "", "-1 100000"])
def test_without_a_quota_all_cpus_are_used(tmp_path, text):
    (tmp_path / "cpu.max").write_text(text)
    assert usable_cpus(tmp_path) == ALL


def test_without_a_cgroup_all_cpus_are_used(tmp_path):
    assert usable_cpus(tmp_path) == ALL


@pytest.mark.parametrize(("text", "count"), [("50000 100000", 1), ("100000 100000", 1), ("190000 100000", 1)])
def test_a_part_of_a_cpu_is_none_but_one_there_always_is(tmp_path, text, count):
    (tmp_path / "cpu.max").write_text(text)
    assert usable_cpus(tmp_path) == count


def test_the_quota_of_an_older_cgroup_is_read_too(tmp_path):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("100000\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert usable_cpus(tmp_path) == 1


def test_a_quota_above_the_cpus_adds_none(tmp_path):
    (tmp_path / "cpu.max").write_text(f"{100000 * (ALL + 5)} 100000")
    assert usable_cpus(tmp_path) == ALL


def test_a_gpu_is_named_with_its_number_which_torch_wants_where_it_is_chosen(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    config = model_files.read_model_config(model_files.DEMO_MODEL)
    assert choose_placement("cuda", "auto", config, {}).device == torch.device("cuda", 0)
