"""Writing with a GPT (book, section 5.3): temperature, top-k, and an end token.

Shapes: B batch, T tokens, V vocabulary.

    python gpt_generate.py --model pocket --prompt "Once upon a time"
    echo "She knows the" | python gpt_generate.py --model story.pth --temperature 0.8 --top-k 40
"""

import argparse
import codecs
import math
import sys

import tiktoken
import torch

import companion
from gpt import GPT_CONFIG_124M, GPTModel
from gpt_download import SETTINGS, download_and_load_gpt2, load_weights_into_gpt
from gpt_train import load_checkpoint, text_to_token_ids
from gpt_with_kv_cache import GPTModelWithCache, KVCache
from pocket_model import POCKET_CONFIG, load_pocket


def softmax_with_temperature(logits, temperature):
    """Probabilities (..., V) of logits (..., V): below 1 a temperature sharpens, above it flattens.

    Raises:
        ValueError: the temperature is not above 0.

    Source: book, section 5.3.1.
    """
    if not temperature > 0:
        raise ValueError(f"To divide by it, temperature must be above 0, but is {temperature}.")
    return torch.softmax(logits / temperature, dim=-1)


def count_draws(probas, num_draws=1_000):
    """How often each of V outcomes is drawn, a list, with seed 123.

    Raises:
        ValueError: `probas` is no vector of probabilities: something is negative or NaN, or the sum
            is not 1.

    Source: book, section 5.3.1 (`print_sampled_tokens`).
    """
    if probas.dim() != 1 or not bool((probas >= 0).all()) or not abs(probas.sum() - 1) < 1e-3:
        raise ValueError(
            "The probabilities must be a vector of numbers from 0 on with the sum 1, but have the "
            f"shape {tuple(probas.shape)}, the sum {probas.sum():.4f} and the least number "
            f"{probas.min():.4f}. A softmax turns logits into probabilities."
        )
    torch.manual_seed(123)
    draws = [torch.multinomial(probas, num_samples=1).item() for _ in range(num_draws)]
    return torch.bincount(torch.tensor(draws), minlength=len(probas)).tolist()


def keep_top_k(logits, top_k):
    """Logits (..., V) in which all but each row's `top_k` largest are minus infinity.

    Raises:
        ValueError: `top_k` is below 1 or above V.

    Source: book, section 5.3.2.
    """
    check_sampling(0.0, top_k, logits.shape[-1])
    smallest_kept = logits.topk(top_k, dim=-1).values[..., -1:]  # (..., 1)
    return logits.masked_fill(logits < smallest_kept, -torch.inf)


def choose_next(logits, temperature=0.0, top_k=None):
    """Ids (B, 1) chosen by logits (B, V): the likeliest at temperature 0, else drawn.

    Raises:
        ValueError: `temperature` is below 0, `top_k` is not 1 to V, or a logit is NaN.

    Source: book, section 5.3.3.
    """
    check_sampling(temperature, top_k, logits.shape[-1])
    if logits.isnan().any():
        raise ValueError("The logits are NaN: the model's weights are damaged or diverged.")
    if top_k is not None:
        logits = keep_top_k(logits, top_k)
    if temperature == 0:
        return logits.argmax(dim=-1, keepdim=True)
    return torch.multinomial(softmax_with_temperature(logits, temperature), num_samples=1)


def check_sampling(temperature, top_k, vocab_size):
    """Raise a ValueError, with the value, for a setting that nothing can be chosen with."""
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature must be a number from 0 on, but is {temperature}.")
    if top_k is not None and not 1 <= top_k <= vocab_size:
        raise ValueError(
            f"top_k must be 1 to the size of the vocabulary, {vocab_size}, but is {top_k}."
        )


def generate(model, idx, max_new_tokens, context_size, temperature=0.0, top_k=None, eos_id=None):
    """Append tokens, the likeliest or drawn ones, until there are enough or the end token comes.

    The model is used in the mode it is in: call `model.eval()` first to switch dropout off.

    Args:
        model: a `GPTModel`.
        idx: (B, T) ids of the prompt, at least one.
        max_new_tokens: how many tokens to append at most.
        context_size: how many of the last tokens the model is given.
        temperature: 0 takes the likeliest token; above it, tokens are drawn.
        top_k: how many of the likeliest tokens may be drawn; all if not given.
        eos_id: the token that ends a text; it is not appended. In a batch, a text that has ended
            is filled up with it until all have.

    Returns:
        (B, T + up to max_new_tokens) ids.

    Raises:
        ValueError: `max_new_tokens` below 0, an empty prompt, or what `choose_next` refuses.

    Source: book, section 5.3.3.
    """
    check_prompt(idx, max_new_tokens)
    has_ended = torch.zeros(len(idx), 1, dtype=torch.bool, device=idx.device)
    for _ in range(max_new_tokens):
        with torch.no_grad():
            logits = model(idx[:, -context_size:])[:, -1, :]  # (B, V), of the last position
        next_id = choose_next(logits, temperature, top_k)  # (B, 1)
        if eos_id is not None:
            has_ended |= next_id == eos_id
            if has_ended.all():
                break
            next_id = next_id.masked_fill(has_ended, eos_id)
        idx = torch.cat([idx, next_id], dim=1)  # (B, T + 1)
    return idx


def stream(model, idx, max_new_tokens, temperature=0.0, top_k=None, eos_id=None):
    """Yield the new ids of one text as soon as each is chosen, with a cache (beyond the book).

    The ids are those of `generate` at the same seed, up to scores that are all but equal.

    Args:
        model: a `GPTModelWithCache`, whose whole context is used.
        idx: (1, T) ids of the prompt.
        max_new_tokens, temperature, top_k, eos_id: as for `generate`.

    Raises:
        ValueError: as `generate`.
    """
    check_prompt(idx, max_new_tokens)
    context_size, weight = model.cfg["context_length"], model.tok_emb.weight
    idx = idx[:, -context_size:]
    num_slots = min(context_size, idx.shape[1] + max_new_tokens)
    cache = KVCache(model.cfg, 1, num_slots, dtype=weight.dtype, device=weight.device)
    for step in range(max_new_tokens):
        if step == 0:
            logits = model.fill(idx, cache=cache)  # (1, V)
        elif idx.shape[1] <= context_size:
            logits = model.extend(idx[:, -1:], cache)
        else:  # the window slides: all positions change, and no key that is kept is right
            logits = model.fill(idx[:, -context_size:])
        next_id = choose_next(logits, temperature, top_k)
        if eos_id is not None and next_id.item() == eos_id:
            return
        yield next_id.item()
        idx = torch.cat([idx, next_id], dim=1)  # (1, T + 1)


def check_prompt(idx, max_new_tokens):
    """Raise a ValueError for a prompt that is empty or no batch, or a negative number of tokens."""
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens must be at least 0, but is {max_new_tokens}.")
    if idx.dim() != 2 or idx.shape[1] == 0:
        raise ValueError(
            f"The prompt must have the shape (batch, tokens), with a token to go on from, but has "
            f"{tuple(idx.shape)}."
        )


def load_model(name):
    """A model with a cache, ready to write.

    Args:
        name: "pocket", "random", one of GPT-2's sizes, "124M" to "1558M", which are downloaded, or
            a checkpoint's path.

    Raises:
        FileNotFoundError, ValueError: as `load_checkpoint`.
        AssetError: as `load_pocket` and `download_and_load_gpt2`.
    """
    if name in SETTINGS:
        settings, params = download_and_load_gpt2(name, companion.assets.cache_dir() / "gpt2")
        model = GPTModelWithCache(
            {
                "vocab_size": settings["n_vocab"],
                "context_length": settings["n_ctx"],
                "emb_dim": settings["n_embd"],
                "n_heads": settings["n_head"],
                "n_layers": settings["n_layer"],
                "drop_rate": 0.0,
                "qkv_bias": True,
            }
        )
        load_weights_into_gpt(model, params)
        return model.eval()
    if name == "random":
        torch.manual_seed(123)
        cfg, weights = GPT_CONFIG_124M, GPTModel(GPT_CONFIG_124M).state_dict()
    elif name == "pocket":
        cfg, weights = POCKET_CONFIG, load_pocket().state_dict()
    else:
        checkpoint = load_checkpoint(name)
        cfg, weights = checkpoint["config"], checkpoint["model_state_dict"]
    model = GPTModelWithCache(cfg)
    model.load_state_dict(weights)
    return model.eval()


def write(model, prompt, max_new_tokens, temperature=0.0, top_k=None, out=None):
    """Print the prompt, and after it each token as it comes, until the end token.

    A token may end within a character: its bytes are kept back until the rest of them comes.
    """
    tokenizer = tiktoken.get_encoding("gpt2")
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    print(prompt, end="", flush=True, file=out)
    idx = text_to_token_ids(prompt, tokenizer).to(model.tok_emb.weight.device)
    for token_id in stream(
        model, idx, max_new_tokens, temperature, top_k, eos_id=tokenizer.eot_token
    ):
        text = decoder.decode(tokenizer.decode_single_token_bytes(token_id))
        print(text, end="", flush=True, file=out)
    print(decoder.decode(b"", final=True), file=out)


def parse(arguments):
    parser = argparse.ArgumentParser(description="Let a GPT go on from a text.")
    parser.add_argument(
        "--model", required=True, help="pocket, random, 124M to 1558M, or a checkpoint's path"
    )
    parser.add_argument("--prompt", help="the text to go on from; standard input if not given")
    parser.add_argument("--temperature", type=float, default=0.0, help="0: the likeliest token")
    parser.add_argument("--top-k", type=int, help="draw among the k likeliest tokens only")
    parser.add_argument("--seed", type=int, default=123, help="the same seed gives the same text")
    parser.add_argument("--max-new-tokens", type=int, default=50)
    return parser.parse_args(arguments)


def main(arguments=None):
    """The command line; the exit status, 2 where something cannot be done."""
    options = parse(arguments)
    companion.prepare_tokenizer()
    try:
        # First what takes no time: nobody should wait for a model to hear of a wrong number.
        check_sampling(options.temperature, options.top_k, GPT_CONFIG_124M["vocab_size"])
        if options.max_new_tokens < 0:
            raise ValueError(f"max_new_tokens must be at least 0, but is {options.max_new_tokens}.")
        prompt = sys.stdin.read().rstrip("\n") if options.prompt is None else options.prompt
        if not prompt:
            raise ValueError("The prompt is empty: there is no token to go on from.")
        model = load_model(options.model).to(companion.device())
        torch.manual_seed(options.seed)
        write(model, prompt, options.max_new_tokens, options.temperature, options.top_k)
    except (ValueError, FileNotFoundError, companion.AssetError) as error:
        print(f"gpt_generate.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
