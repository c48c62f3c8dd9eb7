"""Claim D1: bSAM costs what SAM with Adam costs, its noise is negligible. Step times, interleaved, on this machine."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import Any

import numpy as np
import torch

from experiments.benchmarks.interleaved import interleaved, ratios
from experiments.benchmarks.optimizers import NETWORKS, contenders, optimizer_only
from experiments.pieces import piece
from experiments.registry import Claim, Context, Outcome

LIMIT = 1.05
"""A cost counts as equal, or an addition as negligible, within 5 %."""
BASE = "SAM with Adam"


def _times(network: str, m: int, rounds: int, way: str) -> dict[str, np.ndarray]:
    """Seconds by contender and round: wall time on two threads, or processor time on one."""
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2 if way == "wall" else 1)
        return interleaved(
            contenders(NETWORKS[network](), m), rounds, time.perf_counter if way == "wall" else time.process_time
        )
    finally:
        torch.set_num_threads(threads)


def _alone(network: str, rounds: int) -> dict[str, np.ndarray]:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        return {"quartiles": np.array(optimizer_only(NETWORKS[network](), rounds, time.process_time))}
    finally:
        torch.set_num_threads(threads)


def verdict(over_adam: dict[str, float], noise: dict[str, float]) -> tuple[str, str]:
    """The verdict and its condition, from the median ratios by setting: to SAM with Adam, to bSAM without noise."""
    fits = [key for key in over_adam if over_adam[key] <= LIMIT and noise[key] <= LIMIT]
    if len(fits) == len(over_adam):
        return "held", "in every setting measured"
    if not fits:
        return "refuted", "in no setting measured"
    return "held only if", "in the settings " + "; ".join(fits)


def run(context: Context) -> Outcome:
    """Measure, take ratios to SAM with Adam and to bSAM without noise, and judge by both clocks."""
    rounds = {"LeNet-5": 25, "MLP 784-500-300": 80} if context.scale == "full" else dict.fromkeys(NETWORKS, 1)
    numbers: dict[str, Any] = {}
    medians: dict[str, dict[str, dict[str, float]]] = {way: {"adam": {}, "noise": {}} for way in ("wall", "processor")}
    for network in NETWORKS:
        for m in (1, 8):
            setting = f"{network}, m = {m}"
            numbers[setting] = {}
            for way in ("wall", "processor"):
                measure = partial(_times, network, m, rounds[network], way)
                seconds = piece(context, f"{network.split()[0]}-{m}-{way}", measure)
                numbers[setting][way] = {
                    "over two bare passes": ratios(seconds, "two bare passes"),
                    "over SAM with Adam": ratios(seconds, BASE),
                    "milliseconds": {name: 1e3 * float(np.median(values)) for name, values in seconds.items()},
                }
                medians[way]["adam"][setting] = ratios(seconds, BASE)["bSAM"][1]
                medians[way]["noise"][setting] = ratios(seconds, "bSAM without noise")["bSAM"][1]
        alone = piece(context, f"{network.split()[0]}-alone", partial(_alone, network, rounds[network]))
        numbers[f"{network}, optimizer alone over one normal draw"] = alone["quartiles"].tolist()
    numbers["bSAM over SAM with Adam"] = {way: medians[way]["adam"] for way in medians}
    numbers["bSAM over bSAM without noise"] = {way: medians[way]["noise"] for way in medians}
    word, condition = verdict(medians["processor"]["adam"], medians["processor"]["noise"])
    other, other_condition = verdict(medians["wall"]["adam"], medians["wall"]["noise"])
    cost, noise = medians["processor"]["adam"], medians["processor"]["noise"]
    claim = Claim(
        id="D1",
        verdict=word,
        statement=(
            f"A bSAM step took {min(cost.values()):.2f} to {max(cost.values()):.2f} times a SAM-with-Adam step, "
            f"its noise made it {min(noise.values()):.2f} to {max(noise.values()):.2f} times as long: "
            f"equal and negligible within {LIMIT - 1:.0%} {condition}."
        ),
        numbers={"bSAM over SAM with Adam": cost, "bSAM over bSAM without noise": noise},
        tolerance=f"median of interleaved ratios at most {LIMIT}, batch 200, processor time of one thread",
        second_way=f"wall time on two threads: {other} ({other_condition})",
        condition=condition if word == "held only if" else "",
    )
    load = [round(v, 2) for v in os.getloadavg()]
    settings = {"rounds": rounds, "batch": 200, "limit": LIMIT, "processors": os.cpu_count(), "load average": load}
    return Outcome(settings=settings, numbers=numbers, claims=(claim,))
