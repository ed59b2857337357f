"""`ve-sde`: the variance-exploding SDE on Fashion-MNIST, sampled by predictor and corrector (Song et al. 2021, "Score-based generative
modeling through stochastic differential equations"). As `ncsn`, with all levels instead of a hundred."""

from __future__ import annotations

from safelight.grid import Exponential
from safelight.process.continuous import VE
from safelight.recipes.ncsn import scored
from safelight.sample.langevin import PC
from safelight.train import Train
from safelight.train.times import Stratified


def recipe() -> Train:
    """sigma from 0.02 to 40, times even in t, thus in log sigma; 100 steps of predictor and corrector."""
    return scored(
        "ve-sde",
        "Variance-exploding SDE, predictor-corrector.",
        process=VE(sigma_min=0.02, sigma_max=40.0),
        times=Stratified(),
        sampler=PC(snr=0.16),
        grid=Exponential(),
        steps=100,
        reproduced={
            "val/loss": 0.1393,
            "FD-fashion-mnist-classifier of 500, predictor-corrector": 25.6,
            "FD-fashion-mnist-classifier of 500, ODE in 30 calls": 34.8,
            "where": "one CPU thread",
        },
    )
