"""Every experiment by name: its title, where it is, the claims it tests, and the extras it needs beside its own."""

from __future__ import annotations

from experiments.registry import Experiment

_SEARCHED = {
    "lenet5": "LeNet-5 / FashionMNIST",
    "mlp": "MLP / MNIST",
    "resnet20_frn": "ResNet-20-FRN / CIFAR-10 (JPEG)",
}
_SEARCHES = [
    Experiment(f"search_{net}{suffix}", f"{title}, {task}", f"deep.search:search_{net}{suffix}")
    for net, task in _SEARCHED.items()
    for suffix, title in (
        ("", "Hyperparameter search"),
        ("_extra", "The same for IVON and bSAM with sqrt(N)"),
    )
]

_TABLE = (
    Experiment(
        "biconjugates",
        "f and certified f** on the paper's logistic regression, and sums of biconjugates",
        "theory.biconjugates",
        claims=("C4",),
    ),
    Experiment(
        "fig1", "Max-loss against expected loss; slices of f and f** for several sigma", "theory.fig1", claims=("A8",)
    ),
    Experiment(
        "fig2", "The spaces of mu and lambda; f and f** over mu and over (m, sigma)", "theory.fig2", claims=("A8",)
    ),
    Experiment(
        "fig7",
        "Posteriors and lower bounds with f, certified f** and sampled f**",
        "theory.fig7",
        claims=("B1", "B2", "B6", "C1"),
    ),
    Experiment(
        "flatness", "Claim B5: flatness of the chosen well against sigma and rho", "theory.flatness", claims=("B5",)
    ),
    Experiment(
        "posteriors",
        "Approximate posteriors against the exact one",
        "theory.posteriors",
        claims=("C1",),
        extras=("mcmc",),
    ),
    Experiment(
        "theorem1",
        "Theorem 1, its domain and its counterexamples; f** as the largest convex minorant",
        "theory.theorem1",
        claims=("A1", "A2", "A3", "A4", "A5", "A6", "A7"),
    ),
    Experiment("theorem2", "Theorem 2: where SAM and relaxed Bayes correspond", "theory.theorem2", claims=("B3", "B4")),
    Experiment("worst_case", "The worst-case distribution behind f**, beside the Gaussian", "theory.worst_case"),
    Experiment(
        "inference",
        "The relaxation as a method of inference: tempered, corrected, confined",
        "theory.inference",
        extras=("mcmc",),
    ),
    Experiment("fig3", "Predictive probabilities: exact Bayes, SAM, SAM + Laplace, bSAM", "toy.fig3", claims=("C2",)),
    Experiment("fig5", "Posteriors of the logistic regression: exact, SAM + Laplace, bSAM", "toy.fig5"),
    Experiment("fig6", "Two moons: SAM, SAM + Laplace, bSAM and NUTS", "toy.fig6", claims=("C3",), extras=("mcmc",)),
    Experiment("cost", "What a step of bSAM costs", "deep.cost", claims=("D1",)),
    Experiment("fig4", "Figure 4: sensitivity of accuracy to rho", "deep.sensitivity:fig4", claims=("D2",)),
    Experiment("fig8", "Figure 8: sensitivity of all metrics to rho", "deep.sensitivity:fig8", claims=("D2",)),
    *_SEARCHES,
    Experiment("sqrtn", "App. E.3: the s-update with and without the factor sqrt(N)", "deep.sqrtn", claims=("D7",)),
    Experiment("table1", "Table 1: CIFAR-10/100 without augmentation", "deep.large:table1", claims=("D3",)),
    Experiment(
        "table2", "Table 2: CIFAR-10/100 and TinyImageNet with augmentation", "deep.large:table2", claims=("D3",)
    ),
    Experiment("table3", "Table 3: the noise of line 3", "deep.table3", claims=("D4",)),
    Experiment("table4", "Table 4: Monte Carlo samples in model averaging", "deep.table4", claims=("D5",)),
    Experiment("table5", "Table 5: m-sharpness", "deep.table5", claims=("D6",)),
    Experiment("table6", "Table 6: MLP/MNIST and LeNet-5/FashionMNIST, all methods", "deep.table6", claims=("D3",)),
)

EXPERIMENTS: dict[str, Experiment] = {experiment.name: experiment for experiment in _TABLE}
