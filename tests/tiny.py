"""Tiny random models of several families, with a real tokenizer: fast, and as strict about exactness as large ones."""

from functools import cache
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from foreword.backbone import Backbone

TEXT = [
    "Review: a quiet , generous film . Sentiment: positive",
    "Review: simplistic , silly and tedious . Sentiment: negative",
    "What is the sentiment of this review? Answer very good or rather bad.",
]
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 256,
    "head_dim": 8,
}
ENDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>\n{% endif %}"
)


@cache
def tokenizer() -> Any:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["</s>"], initial_alphabet=sorted(alphabet), show_progress=False
    )
    bpe.train_from_iterator(TEXT * 3, trainer)
    return hf.PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="</s>", chat_template=CHAT)


def config(family: str) -> Any:
    vocabulary = len(tokenizer())
    T5: dict[str, Any] = {
        "vocab_size": vocabulary, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 3,
        "num_heads": 4, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 12, "eos_token_id": 0,
        "pad_token_id": 1, "decoder_start_token_id": 1,
    }  # fmt: skip
    match family:
        case "llama":
            return hf.LlamaConfig(vocab_size=vocabulary, **SMALL)
        case "qwen":  # every other layer slides
            return hf.Qwen2Config(
                vocab_size=vocabulary, use_sliding_window=True, sliding_window=6, max_window_layers=1, **SMALL
            )
        case "gemma":  # sliding windows, capped scores, scaled embeddings, one KV head
            return hf.Gemma2Config(
                vocab_size=vocabulary, sliding_window=6, attn_logit_softcapping=2.0, final_logit_softcapping=3.0,
                query_pre_attn_scalar=8, **SMALL | {"num_key_value_heads": 1},
            )  # fmt: skip
        case "gpt2":
            return hf.GPT2Config(vocab_size=vocabulary, n_embd=32, n_layer=3, n_head=4, n_positions=256, **ENDS)
        case "opt":  # positions are learned and shifted, embeddings narrower than the model
            return hf.OPTConfig(
                vocab_size=vocabulary, hidden_size=32, word_embed_proj_dim=16, num_hidden_layers=3,
                num_attention_heads=4, ffn_dim=48, max_position_embeddings=256, **ENDS,
            )  # fmt: skip
        case "bloom":  # ALiBi, with attention code of its own
            return hf.BloomConfig(vocab_size=vocabulary, hidden_size=32, n_layer=3, n_head=4, **ENDS)
        case "t5":  # more layers in the decoder, relative positions that short rows tell apart, scaled outputs
            return hf.T5Config(feed_forward_proj="relu", tie_word_embeddings=True, **T5)
        case "mt5":
            return hf.MT5Config(feed_forward_proj="gated-gelu", tie_word_embeddings=False, **T5)
        case "bart":  # learned positions
            return hf.BartConfig(
                vocab_size=vocabulary, d_model=32, encoder_layers=2, decoder_layers=3, encoder_attention_heads=4,
                decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=256,
                scale_embedding=True, forced_eos_token_id=None, decoder_start_token_id=0, **ENDS,
            )  # fmt: skip
    raise ValueError(family)


FAMILIES = ("llama", "qwen", "gemma", "gpt2", "opt", "bloom")
SEQ2SEQ = ("t5", "mt5", "bart")


def backbone(family: str = "llama", dtype: torch.dtype = torch.float32, seed: int = 0, spread: float = 0.3) -> Backbone:
    torch.manual_seed(seed)
    kind = hf.AutoModelForSeq2SeqLM if family in SEQ2SEQ else hf.AutoModelForCausalLM
    model = kind.from_config(config(family)).to(dtype)
    for parameter in model.parameters():  # random models answer nearly alike everywhere; wider weights tell more
        torch.nn.init.normal_(parameter, std=spread if parameter.dim() > 1 else spread / 3)
    return Backbone(model, tokenizer(), f"tiny-{family}")
