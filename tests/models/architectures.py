"""Tiny random models of many architectures, made on the spot."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

COMMON: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.25,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
HALF = ["sliding_attention", "full_attention"] * 2
DELTA: dict[str, Any] = {
    "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_conv_kernel_dim": 4,
}
LATENT: dict[str, Any] = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "head_dim": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_group": 1,
    "topk_group": 1,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
}
GEMMA_4: dict[str, Any] = {
    "sliding_window": 16,
    "layer_types": HALF,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 300,
}
MAMBA_2: dict[str, Any] = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8}
OLD: dict[str, Any] = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 256, "n_inner": 64, "initializer_range": 0.25}
FALCON = {key: value for key, value in COMMON.items() if key not in ("head_dim", "num_key_value_heads")}
LONG_ROPE: dict[str, Any] = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
    "original_max_position_embeddings": 64,
}

ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", COMMON),
    "mistral": ("mistral", COMMON | {"sliding_window": 16}),
    "ministral": ("ministral", COMMON | {"sliding_window": 16, "layer_types": HALF}),
    "mixtral": ("mixtral", COMMON | {"num_local_experts": 4}),
    "qwen2": ("qwen2", COMMON),
    "qwen2 window": ("qwen2", COMMON | {"use_sliding_window": True, "sliding_window": 16, "layer_types": HALF}),
    "qwen2 moe": ("qwen2_moe", COMMON | EXPERTS | {"shared_expert_intermediate_size": 32}),
    "qwen3": ("qwen3", COMMON),
    "qwen3 moe": ("qwen3_moe", COMMON | EXPERTS),
    "qwen3 next": ("qwen3_next", COMMON | EXPERTS | DELTA | {"shared_expert_intermediate_size": 32}),
    "qwen3.5": ("qwen3_5_text", COMMON | DELTA),
    "qwen3.5 moe": ("qwen3_5_moe_text", COMMON | EXPERTS | DELTA | {"shared_expert_intermediate_size": 32}),
    "gemma": ("gemma", COMMON),
    "gemma 2": ("gemma2", COMMON | {"sliding_window": 16, "query_pre_attn_scalar": 8}),
    "gemma 3": ("gemma3_text", COMMON | {"sliding_window": 16, "query_pre_attn_scalar": 8, "layer_types": HALF}),
    "gemma 3n": (
        "gemma3n_text",
        COMMON
        | {
            "sliding_window": 16,
            "layer_types": HALF,
            "num_kv_shared_layers": 2,
            "vocab_size_per_layer_input": 300,
            "hidden_size_per_layer_input": 8,
            "laurel_rank": 4,
            "activation_sparsity_pattern": None,
            "altup_num_inputs": 2,
        },
    ),
    "gemma 4": ("gemma4_text", COMMON | GEMMA_4 | {"global_head_dim": 8}),
    "gemma 4 unequal": ("gemma4_text", COMMON | GEMMA_4 | {"global_head_dim": 16, "num_kv_shared_layers": 2}),
    "phi": ("phi", COMMON | {"num_key_value_heads": 4}),
    "phi 3": ("phi3", COMMON | {"sliding_window": 16}),
    "phi 3 longrope": ("phi3", COMMON | {"rope_parameters": LONG_ROPE, "original_max_position_embeddings": 64}),
    "phi moe": ("phimoe", COMMON | {"num_local_experts": 4}),
    "smollm3": ("smollm3", COMMON),
    "olmo": ("olmo", COMMON),
    "olmo 2": ("olmo2", COMMON),
    "olmo 3": ("olmo3", COMMON | {"sliding_window": 16, "layer_types": HALF}),
    "olmoe": ("olmoe", COMMON | EXPERTS),
    "gpt-neox": ("gpt_neox", COMMON),
    "granite": ("granite", COMMON | {"embedding_multiplier": 2.0, "residual_multiplier": 0.5, "logits_scaling": 2.0}),
    "granite moe": ("granitemoe", COMMON | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "cohere": ("cohere", COMMON),
    "cohere 2": ("cohere2", COMMON | {"sliding_window": 16, "layer_types": HALF}),
    "glm": ("glm", COMMON),
    "glm 4": ("glm4", COMMON),
    "nemotron": ("nemotron", COMMON),
    "ernie 4.5": ("ernie4_5", COMMON),
    "exaone 4": ("exaone4", COMMON | {"sliding_window": 16, "layer_types": HALF}),
    "stablelm": ("stablelm", COMMON),
    "starcoder2": ("starcoder2", COMMON | {"sliding_window": 16}),
    "opt": ("opt", COMMON | {"ffn_dim": 64, "word_embed_proj_dim": 32, "init_std": 0.25}),
    "seed-oss": ("seed_oss", COMMON),
    "apertus": ("apertus", COMMON),
    "arcee": ("arcee", COMMON),
    "gpt-2": ("gpt2", OLD),
    "gpt-neo": (
        "gpt_neo",
        COMMON | {"num_layers": 4, "num_heads": 4, "attention_types": [[["global", "local"], 2]], "window_size": 16},
    ),
    "gpt-j": ("gptj", OLD | {"rotary_dim": 4}),
    "gpt-bigcode": ("gpt_bigcode", OLD),
    "codegen": ("codegen", OLD | {"rotary_dim": 4}),
    "falcon": ("falcon", FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon old": ("falcon", FALCON | {"multi_query": True, "alibi": True}),
    "bloom": ("bloom", {"hidden_size": 32, "n_layer": 4, "n_head": 4, "initializer_range": 0.25}),
    "mpt": ("mpt", {"d_model": 32, "n_layers": 4, "n_heads": 4, "max_seq_len": 256, "initializer_range": 0.25}),
    "gpt-oss": ("gpt_oss", COMMON | {"num_local_experts": 4, "sliding_window": 16, "layer_types": HALF}),
    "llama 4": (
        "llama4_text",
        COMMON
        | {
            "attention_chunk_size": 16,
            "num_local_experts": 4,
            "intermediate_size_mlp": 64,
            "floor_scale": 8,
            "layer_types": ["chunked_attention", "full_attention"] * 2,
            "no_rope_layers": [1, 0, 1, 0],
        },
    ),
    "deepseek v2": ("deepseek_v2", COMMON | LATENT),
    "deepseek v3": ("deepseek_v3", COMMON | LATENT),
    "minicpm 3": ("minicpm3", COMMON | LATENT),
    "lfm2": ("lfm2", COMMON | {"layer_types": ["conv", "full_attention"] * 2, "block_ff_dim": 64}),
    "falcon-h1": (
        "falcon_h1",
        COMMON | {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 8},
    ),
    "mamba": ("mamba", {"hidden_size": 32, "num_hidden_layers": 4, "state_size": 8, "initializer_range": 0.25}),
    "mamba 2": (
        "mamba2",
        {"hidden_size": 32, "num_hidden_layers": 4, "state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8},
    ),
    "jamba": ("jamba", COMMON | {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False, "mamba_d_state": 8}),
    "granite hybrid": ("granitemoehybrid", COMMON | MAMBA_2 | {"layer_types": ["mamba", "attention"] * 2, "num_local_experts": 0}),
    "bert": ("bert", COMMON),
}
"""By name: the model type of transformers, and what its config says."""


def tiny(name: str, vocab: int) -> Any:
    """A random causal language model of this architecture, in float32, with the eager attention of Hugging Face."""
    kind, wanted = ARCHITECTURES[name]
    config = AutoConfig.for_model(kind, vocab_size=vocab, **wanted)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for part, weight in model.named_parameters():
            if weight.ndim == 1 and len(weight) > 1 and (not weight.isfinite().all() or weight.std() == 0):
                weight.normal_(mean=1.0 if "norm" in part or "ln" in part else 0.1, std=0.1)
    return model
