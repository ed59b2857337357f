"""The peers whose outputs are the oracles of what reads their files. Imported where first used: they cost ten seconds."""

from __future__ import annotations

import json
import logging
import warnings
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn


@cache
def diffusers() -> ModuleType:
    """The module, silenced."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import diffusers as peer
    peer.utils.logging.set_verbosity_error()
    peer.utils.logging.disable_progress_bar()
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    return peer


@cache
def transformers() -> ModuleType:
    """The module, silenced."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers as peer
    peer.utils.logging.set_verbosity_error()
    peer.utils.logging.disable_progress_bar()
    return peer


def stirred(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module, in evaluation mode, with every parameter drawn: gains about 1, matrices and kernels of N(0, 1/fan-in), the rest about 0.

    What a fresh module has at zero is not: a part that is left out would show.
    """
    drawn = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            noise = torch.randn(p.shape, generator=drawn)
            if p.ndim > 1:
                p.copy_(noise * p[0].numel() ** -0.5)
            else:
                p.copy_(0.1 * noise + (1.0 if name.endswith("weight") else 0.0))
    return module.eval()


def difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference over the largest value of the peer's."""
    return float((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max())


def saved(module: Any, folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What the module's own save_pretrained writes: its config.json and the tensors of its only safetensors file."""
    module.save_pretrained(folder)
    (file,) = folder.glob("*.safetensors")
    return json.loads((folder / "config.json").read_text()), load_file(file)
