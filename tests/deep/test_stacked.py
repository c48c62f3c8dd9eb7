"""Stacks against the single runner without noise: the same weights to rounding in float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from experiments.deep import data, runner, stacked, stacked_rows
from experiments.deep.config import Config


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("model", ["mlp", "lenet5"])
def test_stacks_equal_single_runs(model: str) -> None:
    digits = data.split(data.load("digits"), select=False, limit=96)
    split = data.Split(digits.images.double(), digits.labels, digits.eval_images.double(), digits.eval_labels, 10)
    base = Config("digits", model, "bsam", epochs=2, batch_size=24, parts=4, rho=0.05, lr=0.2, noise=False)
    two = [base, replace(base, method="sam-sgd", lr=0.03), replace(base, method="sam-adam", lr=1e-3, weight_decay=1e-2)]
    if model == "lenet5":
        two.append(replace(base, parts=2, lr=0.1))
    one = [replace(base, method="sgd", parts=1, lr=0.03), replace(base, method="adam", parts=1, lr=1e-3)]
    for configs in (two, one):
        stack = stacked.train(configs, [0, 3], split)
        for rule in stack.rules:
            for c, config in enumerate(rule.configs):
                single = runner.train(replace(config, seed=3), split)
                weights = torch.nn.utils.parameters_to_vector(single.model.parameters()).detach()
                assert float((rule.mean[1, c] - weights).norm() / weights.norm()) < 1e-11


def test_plans_cover_every_run_once() -> None:
    base = Config("digits", "lenet5", "bsam", batch_size=48, parts=4)
    configs = [
        replace(base, method=m, seed=s, rho=r) for m in ("bsam", "sgd", "vogn") for s in range(3) for r in (0.0, 0.1)
    ]
    configs.append(replace(base, seed=7))
    plan = stacked_rows.plan_stacks(configs)
    covered = [replace(c, seed=s) for group, seeds in plan for c in group for s in seeds]
    assert sorted(c.key() for c in covered) == sorted(c.key() for c in configs)
    for group, _ in plan:
        assert len({stacked.compatible(c) for c in group}) == 1


def test_unequal_parts_are_refused() -> None:
    with pytest.raises(ValueError, match="parts must divide"):
        stacked.pieces([Config("digits", "lenet5", "bsam", batch_size=200, parts=16)], 200)
