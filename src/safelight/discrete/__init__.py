"""Discrete: diffusion of tokens. The Gaussian family's shape again: process, denoiser, sampler, objective, one file a model.

x_t is a tensor of tokens (B, C, H, W), whole numbers kept as floats, so that `trajectory`, batches and held-out losses treat them as
pictures; a text is a picture of one row. A denoiser's estimate is the expected one-hot x_0, the probabilities (B, K, C, H, W).
"""

from __future__ import annotations

from safelight.discrete.alphabet import Alphabet
from safelight.discrete.model import Tokens, TokensSpec, load, sample
from safelight.discrete.process import TokenProcess
from safelight.discrete.sample import Ancestral
from safelight.spec import import_all

import_all(__name__, __path__)

__all__ = ["Alphabet", "Ancestral", "TokenProcess", "Tokens", "TokensSpec", "load", "sample"]
