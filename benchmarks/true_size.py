"""Networks at their published size beside diffusers': one forward of each with the same weights, and the number of parameters.

    python benchmarks/true_size.py [sd1 sdxl dit ...]

The two run one after the other, each in a process of its own, so that memory holds one of them at a time (11 GB for SDXL in float32).
Weights are drawn by name: no file is written, and both processes make the same ones. Prints the largest difference over the largest
value of the peer's output, and fails beyond 1e-4.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

BOUND = 1e-4
# The configs of the published checkpoints, as their config.json has them where it differs from the class's defaults.
PUBLISHED: dict[str, dict[str, Any]] = {
    "sd1": {
        "_class_name": "UNet2DConditionModel",
        "sample_size": 64,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    },
    "sdxl": {
        "_class_name": "UNet2DConditionModel",
        "sample_size": 128,
        "block_out_channels": [320, 640, 1280],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": [1, 2, 10],
        "attention_head_dim": [5, 10, 20],
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    "dit": {
        "_class_name": "DiTTransformer2DModel",
        "num_attention_heads": 16,
        "attention_head_dim": 72,
        "in_channels": 4,
        "out_channels": 8,
        "num_layers": 28,
        "sample_size": 32,
        "patch_size": 2,
        "num_embeds_ada_norm": 1000,
        "norm_type": "ada_norm_zero",
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "norm_elementwise_affine": False,
    },
}
SIDE = {"sd1": 16, "sdxl": 16, "dit": 32}


# diffusers keeps a copy of the embedding of noise and class in every block; those of the published file are equal.
_COPY = re.compile(r"transformer_blocks\.\d+\.norm1\.emb\.")


def given_to(config: dict[str, Any]) -> dict[str, Any]:
    """What the class is built from."""
    return {k: v for k, v in config.items() if k != "_class_name"}


def drawn(name: str, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """Weights of a name: N(0, 1/fan-in) for matrices and kernels, 1 + N(0, 0.01) for gains, N(0, 0.01) for other vectors."""
    name = _COPY.sub("transformer_blocks.0.norm1.emb.", name)
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
    value = torch.empty(tuple(shape)).normal_(generator=torch.Generator().manual_seed(seed))
    if len(shape) < 2:
        return value.mul_(0.1).add_(1.0 if name.endswith("weight") else 0.0)
    return value.mul_((value[0].numel()) ** -0.5)


def inputs(name: str, config: dict[str, Any]) -> dict[str, Tensor]:
    """What both are given: x, t, words or class, sizes."""
    seeded = torch.Generator().manual_seed(0)
    found = {"x": torch.randn(1, 4, SIDE[name], SIDE[name], generator=seeded), "t": torch.tensor([501.0])}
    if "cross_attention_dim" in config:
        found["tokens"] = torch.randn(1, 77, config["cross_attention_dim"], generator=seeded)
    if name == "sdxl":
        found["pooled"] = torch.randn(1, 1280, generator=seeded)
        found["sizes"] = torch.tensor([[1024.0, 1024.0, 0.0, 0.0, 1024.0, 1024.0]])
    if name == "dit":
        found["label"] = torch.tensor([207])
    return found


def theirs(name: str, config: dict[str, Any]) -> tuple[Tensor, int]:
    """The peer's output and its number of parameters."""
    import diffusers

    kind = getattr(diffusers, config["_class_name"])
    with torch.device("meta"):
        model = kind.from_config(given_to(config))
    count = sum(p.numel() for p in model.parameters())
    model.load_state_dict({k: drawn(k, v.shape) for k, v in model.state_dict().items()}, assign=True)
    if name == "dit":  # its positions are computed, and saved by nobody
        model.pos_embed.pos_embed = kind.from_config({**given_to(config), "num_layers": 1}).pos_embed.pos_embed
    given = inputs(name, config)
    if name == "dit":
        out = model.eval()(given["x"], timestep=given["t"].long(), class_labels=given["label"]).sample
    else:
        more = {"text_embeds": given["pooled"], "time_ids": given["sizes"]} if name == "sdxl" else None
        out = model.eval()(given["x"], given["t"], given["tokens"], added_cond_kwargs=more).sample
    return out, count


def ours(name: str, config: dict[str, Any]) -> tuple[Tensor, int]:
    """Our output and number of parameters."""
    from safelight.cond import Cond
    from safelight.interop.keys import to_ours
    from safelight.interop.maps import dit, unet

    maps: Any = dit if name == "dit" else unet
    spec = maps.spec(config)
    with torch.device("meta"):
        network = spec.build()
    state = network.state_dict()
    keys, shapes = maps.keys(spec), _their_shapes(config)
    network.load_state_dict(to_ours(keys, lambda n: drawn(n, shapes[n]), {k: v.shape for k, v in state.items()}), assign=True)
    given = inputs(name, config)
    vector = torch.cat([given["pooled"], given["sizes"]], 1) if name == "sdxl" else None
    if name == "dit":
        table = drawn("transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight", (1001, 1152))
        vector = table[given["label"]]
    found = network.eval()(given["x"], given["t"], Cond(tokens=given.get("tokens"), vector=vector))
    out = found.F if found.fraction is None else torch.cat([found.F, 2 * found.fraction - 1], 1)
    count = sum(p.numel() for p in network.parameters())
    if name == "dit":  # its classes are the text encoder's; the published count has them, and the fixed positions
        count += table.numel() + dit.constants(spec)["pos_embed"].numel()
    return out, count


def _their_shapes(config: dict[str, Any]) -> dict[str, torch.Size]:
    import diffusers

    with torch.device("meta"):
        model = getattr(diffusers, config["_class_name"]).from_config(given_to(config))
    return {k: v.shape for k, v in model.state_dict().items()}


def child(side: str, name: str, out: Path) -> None:
    """One network's forward, its output and figures written to a file."""
    start = time.process_time()
    with torch.inference_mode():
        answer, count = (theirs if side == "theirs" else ours)(name, PUBLISHED[name])
    torch.save(answer.clone(), out)
    print(json.dumps({"parameters": count, "seconds": time.process_time() - start}))


def main() -> int:
    """Run each network on both sides; 1 when one differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(PUBLISHED))
    parser.add_argument("--side", choices=("theirs", "ours"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        child(args.side, args.names[0], args.out)
        return 0
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for name in args.names:
            answers = {}
            for side in ("theirs", "ours"):
                out = Path(folder) / side
                command = [sys.executable, __file__, name, "--side", side, "--out", str(out)]
                said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                answers[side] = torch.load(out, weights_only=True), json.loads(said.splitlines()[-1])
            (peer, there), (mine, here) = answers["theirs"], answers["ours"]
            off = float((mine - peer).abs().max() / peer.abs().max())
            worst = max(worst, off)
            print(
                f"{name:5} parameters {here['parameters']:,} (theirs {there['parameters']:,})  largest difference {off:.1e} of the "
                f"largest value  CPU {here['seconds']:.0f} s (theirs {there['seconds']:.0f} s)",
                flush=True,
            )
    return int(worst > BOUND)


if __name__ == "__main__":
    sys.exit(main())
