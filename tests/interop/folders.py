"""Tiny pipelines of published classes, random in every weight, as diffusers itself saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from safelight.text.tokens import Tokenizer
from tests import peers

MERGES = (("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>"), ("r", "e"), ("re", "d</w>"))


def tokenizer(pad: str = "<|endoftext|>") -> Any:
    """CLIP's tokenizer over a handful of merges."""
    ours = Tokenizer(MERGES)
    return peers.transformers().CLIPTokenizer(
        vocab=ours.ids, merges=list(MERGES), pad_token=pad, model_max_length=77, unk_token="<|endoftext|>"
    )


def text(width: int = 32, projection: int | None = None, act: str = "quick_gelu") -> Any:
    peer = peers.transformers()
    size = Tokenizer(MERGES).size
    config = peer.CLIPTextConfig(
        vocab_size=size, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=3, num_attention_heads=4,
        bos_token_id=size - 2, eos_token_id=size - 1, hidden_act=act, projection_dim=projection or 512,
    )  # fmt: skip
    made = peer.CLIPTextModelWithProjection if projection else peer.CLIPTextModel
    return peers.stirred(made(config), 1)


def vae() -> Any:
    return peers.stirred(
        peers.diffusers().AutoencoderKL(
            block_out_channels=(32, 64), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4, norm_num_groups=8, sample_size=32, scaling_factor=0.18215,
        ),
        2,
    )  # fmt: skip


def unet(**more: Any) -> Any:
    return peers.stirred(
        peers.diffusers().UNet2DConditionModel(
            **dict(
                block_out_channels=(32, 64), layers_per_block=1, sample_size=16, attention_head_dim=4, norm_num_groups=8,
                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
                cross_attention_dim=32,
            ) | more,
        ),
        3,
    )  # fmt: skip


def ddim(**more: Any) -> Any:
    return peers.diffusers().DDIMScheduler(
        **dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1) | more
    )


def sd1(**more: Any) -> Any:
    """A `StableDiffusionPipeline`. more: other components."""
    parts = dict(
        unet=unet(), vae=vae(), text_encoder=text(), tokenizer=tokenizer(), scheduler=ddim(), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    return peers.diffusers().StableDiffusionPipeline(**parts | more)


def sdxl(**more: Any) -> Any:
    """A `StableDiffusionXLPipeline`."""
    network = unet(
        cross_attention_dim=32 + 32, addition_embed_type="text_time", addition_time_embed_dim=8, use_linear_projection=True,
        projection_class_embeddings_input_dim=32 + 6 * 8, transformer_layers_per_block=(1, 1),
    )  # fmt: skip
    parts = dict(
        unet=network, vae=vae(), text_encoder=text(), text_encoder_2=text(projection=32, act="gelu"), tokenizer=tokenizer(),
        tokenizer_2=tokenizer("!"), scheduler=ddim(),
    )  # fmt: skip
    return peers.diffusers().StableDiffusionXLPipeline(**parts | more, add_watermarker=False)


def save(pipeline: Any, folder: Path, **how: Any) -> Path:
    """The folder, as the pipeline's own save_pretrained writes it."""
    with torch.no_grad():
        pipeline.save_pretrained(folder, **how)
    return folder


def t5(width: int = 32) -> Any:
    """T5's encoder over a vocabulary of a hundred pieces."""
    peer = peers.transformers()
    config = peer.T5Config(
        vocab_size=128, d_model=width, d_kv=8, d_ff=64, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu", dense_act_fn="gelu_new",
        tie_word_embeddings=False,
    )  # fmt: skip
    return peers.stirred(peer.T5EncoderModel(config), 5)


def pieces() -> Any:
    """T5's tokenizer over letters and a few syllables."""
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    vocab += [(c, -5.0) for c in "abcdefghijklmnopqrstuvwxyz,.0123456789"] + [
        ("\u2581cat", -3.0),
        ("\u2581dog", -3.0),
        ("re", -4.0),
    ]
    return peers.transformers().T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=120)


def dit(alike: bool = True) -> Any:
    """A `DiTPipeline` of three classes. alike: its blocks share one embedding, as the published ones do."""
    diffusers = peers.diffusers()
    network = peers.stirred(
        diffusers.DiTTransformer2DModel(
            num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=2, sample_size=16,
            num_embeds_ada_norm=3,
        ),
        6,
    )  # fmt: skip
    if alike:
        first = network.get_submodule("transformer_blocks.0.norm1.emb").state_dict()
        network.get_submodule("transformer_blocks.1.norm1.emb").load_state_dict(first)
    return diffusers.DiTPipeline(network, vae(), ddim(steps_offset=0))


def pixart() -> Any:
    """A `PixArtAlphaPipeline`."""
    diffusers = peers.diffusers()
    network = peers.stirred(
        diffusers.PixArtTransformer2DModel(
            num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=2, sample_size=16,
            cross_attention_dim=32, caption_channels=32, use_additional_conditions=False,
        ),
        7,
    )  # fmt: skip
    return diffusers.PixArtAlphaPipeline(
        tokenizer=pieces(), text_encoder=t5(), vae=vae(), transformer=network, scheduler=ddim()
    )


def pixels() -> Any:
    """A `DDIMPipeline` of a `UNet2DModel`: pixels, no words."""
    diffusers = peers.diffusers()
    network = peers.stirred(
        diffusers.UNet2DModel(
            sample_size=16, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(32, 64), norm_num_groups=8,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"), attention_head_dim=8,
        ),
        8,
    )  # fmt: skip
    return diffusers.DDIMPipeline(network, diffusers.DDIMScheduler())


def inpaint() -> Any:
    """A `StableDiffusionInpaintPipeline` of nine channels."""
    return peers.diffusers().StableDiffusionInpaintPipeline(
        unet=unet(in_channels=9), vae=vae(), text_encoder=text(), tokenizer=tokenizer(), scheduler=ddim(), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def upscaler() -> Any:
    """A `StableDiffusionUpscalePipeline`: the small picture beside the latent, its noise level as a class."""
    diffusers = peers.diffusers()
    return diffusers.StableDiffusionUpscalePipeline(
        unet=unet(in_channels=7, num_class_embeds=50), vae=vae(), text_encoder=text(), tokenizer=tokenizer(), scheduler=ddim(),
        low_res_scheduler=diffusers.DDPMScheduler(beta_schedule="scaled_linear", num_train_timesteps=50), max_noise_level=40,
    )  # fmt: skip


def deepfloyd(stage: int) -> Any:
    """DeepFloyd IF: its first stage, or its second, which sees a small picture and is told how noisy that is."""
    diffusers = peers.diffusers()
    network = peers.stirred(
        diffusers.UNet2DConditionModel(
            sample_size=16, in_channels=3 * stage, out_channels=6, layers_per_block=1, block_out_channels=(32, 64), norm_num_groups=8,
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn", up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            cross_attention_dim=32, encoder_hid_dim=32, encoder_hid_dim_type="text_proj", addition_embed_type="text",
            addition_embed_type_num_heads=4, attention_head_dim=8, act_fn="gelu", resnet_time_scale_shift="scale_shift",
            cross_attention_norm="group_norm", class_embed_type="timestep" if stage > 1 else None,
        ),
        9,
    )  # fmt: skip
    learned = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2", variance_type="learned_range")
    parts: dict[str, Any] = dict(
        tokenizer=pieces(), text_encoder=t5(), unet=network, scheduler=learned, safety_checker=None, feature_extractor=None,
        watermarker=None, requires_safety_checker=False,
    )  # fmt: skip
    if stage == 1:
        return diffusers.IFPipeline(**parts)
    return diffusers.IFSuperResolutionPipeline(
        **parts, image_noising_scheduler=diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    )


def classes() -> Any:
    """A `DDIMPipeline` of a `UNet2DModel` with three classes."""
    diffusers = peers.diffusers()
    network = peers.stirred(
        diffusers.UNet2DModel(
            sample_size=16, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(32, 64), norm_num_groups=8,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"), attention_head_dim=8,
            num_class_embeds=3,
        ),
        8,
    )  # fmt: skip
    return diffusers.DDIMPipeline(network, diffusers.DDIMScheduler())
