"""A tiny random Qwen2 with the mini pair's tokenizer: for tests of machinery, where no story has to be good."""

from __future__ import annotations

from pathlib import Path


def tiny_model(folder: Path, seed: int = 0, layers: int = 2) -> str:
    """Write the model to ``folder`` and return its SPEC."""
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    from lab.domain import DATA

    tokenizer = AutoTokenizer.from_pretrained(DATA / "mini" / "teacher")
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
