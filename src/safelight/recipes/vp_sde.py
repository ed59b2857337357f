"""`vp-sde`: the variance-preserving SDE on Fashion-MNIST, sampled by predictor and corrector (Song et al. 2021, "Score-based generative
modeling through stochastic differential equations"). The same network makes pictures by the probability-flow ODE in fewer calls."""

from __future__ import annotations

from safelight.grid import Uniform
from safelight.process.diffusion import VP
from safelight.recipes.ncsn import scored
from safelight.sample.langevin import PC
from safelight.train import Train
from safelight.train.times import Stratified


def recipe() -> Train:
    """beta from 0.1 to 20, times even in t; 100 steps of predictor and corrector."""
    return scored(
        "vp-sde",
        "Variance-preserving SDE, predictor-corrector.",
        process=VP(),
        times=Stratified(),
        sampler=PC(snr=0.05),
        grid=Uniform(),
        steps=100,
        reproduced={
            "val/loss": 0.0495,
            "FD-fashion-mnist-classifier of 500, predictor-corrector": 24.3,
            "FD-fashion-mnist-classifier of 500, ODE in 30 calls": 29.3,
            "where": "one CPU thread",
        },
    )
