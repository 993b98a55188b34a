"""GPT-2 that keeps the keys and values it has computed (beyond the book).

`generate_text_cached` gives the tokens that chapter 4's `generate_text_simple` gives, sooner.

Shapes: B batch, T tokens, V vocabulary, C width of a token's vector (`emb_dim`), H heads, D width
of a head (C = H * D), L blocks, N slots of the cache. A token at position p has its keys and values
in slot p.
"""

import time

import torch
import torch.nn.functional as F

from gpt import GPT_CONFIG_124M, GPTModel, check_ids, generate_text_simple


class KVCache:
    """The keys and values of every block, in memory that is reserved once.

    Args:
        cfg: the model's configuration, with the keys of `GPT_CONFIG_124M`.
        batch_size: how many sequences there is room for.
        num_slots: tokens that fit in each, the model's `context_length` if not given.

    Raises:
        ValueError: there is no room at all, or more slots than the model has positions.
    """

    def __init__(self, cfg, batch_size=1, num_slots=None, dtype=None, device=None):
        num_slots = cfg["context_length"] if num_slots is None else num_slots
        if batch_size < 1 or not 1 <= num_slots <= cfg["context_length"]:
            raise ValueError(
                "A cache needs at least one sequence and 1 to "
                f"context_length={cfg['context_length']} slots, but got batch_size={batch_size} "
                f"and num_slots={num_slots}."
            )
        self.batch_size, self.num_slots = batch_size, num_slots
        head_dim = cfg["emb_dim"] // cfg["n_heads"]
        shape = (cfg["n_layers"], 2, batch_size, cfg["n_heads"], num_slots, head_dim)
        self.memory = torch.zeros(shape, dtype=dtype, device=device)  # (L, 2, B, H, N, D)
        self.lengths = []  # tokens that each sequence has in the cache

    def reset(self):
        """Forget all sequences; the memory stays reserved."""
        self.memory.zero_()
        self.lengths = []

    def keep(self, rows):
        """Forget all sequences but these, which move up in their order."""
        self.memory[:, :, : len(rows)] = self.memory[:, :, rows]
        self.lengths = [self.lengths[row] for row in rows]

    def write(self, layer, keys_values):
        """Keep the keys and values, (2, B, H, T, D), of the first T positions."""
        _, num_sequences, _, num_tokens, _ = keys_values.shape
        self.memory[layer, :, :num_sequences, :, :num_tokens] = keys_values

    def append(self, layer, keys_values):
        """Add a position, (2, B, H, 1, D), to each sequence; all keys, all values: (B, H, T, D)."""
        num_sequences, longest = len(self.lengths), max(self.lengths)
        memory = self.memory[layer, :, :num_sequences]  # (2, B, H, N, D)
        if min(self.lengths) == longest:
            memory[:, :, :, longest] = keys_values[:, :, :, 0]
        else:
            for row, length in enumerate(self.lengths):
                memory[:, row, :, length] = keys_values[:, row, :, 0]
        return memory[:, :, :, : longest + 1].unbind()


class GPTModelWithCache(GPTModel):
    """A `GPTModel` with two more ways to call it: `fill` a cache with prompts, and `extend` them.

    Parameters, their names and `forward` are those of `GPTModel`, so that its state dictionary
    loads. `fill` and `extend` never apply dropout and compute no gradients.
    """

    def __init__(self, cfg):
        super().__init__(cfg)
        if cfg["n_layers"] < 1:
            raise ValueError(f"n_layers must be at least 1, but is {cfg['n_layers']}.")
        self.cfg = cfg
        self.qkv = [None] * cfg["n_layers"]  # weight and bias of a block's three projections
        self.lay_out_weights()

    @torch.no_grad()
    def fill(self, in_idx, lengths=None, cache=None):
        """Read whole prompts, and keep their keys and values in a cache.

        Args:
            in_idx: (B, T) ids. Shorter prompts are padded on the right with any valid id: a token
                never looks to its right, so that the padding is not seen.
            lengths: a list, how many ids of each row are no padding; all of them if not given.
            cache: a `KVCache`, which is reset first; without one, nothing is kept.

        Returns:
            (B, V) logits of the token after each prompt.

        Raises:
            ValueError: an empty prompt, or one that does not fit the model or the cache.
        """
        num_sequences, num_tokens = check_prompts(self, in_idx, lengths, cache)
        lengths = [num_tokens] * num_sequences if lengths is None else list(lengths)
        if cache is not None:
            cache.reset()
        self.lay_out_weights()
        rows = torch.arange(num_sequences, device=in_idx.device)
        last = torch.tensor(lengths, device=in_idx.device) - 1
        slots = torch.arange(num_tokens, device=in_idx.device)

        x = self.tok_emb(in_idx) + self.pos_emb(slots)  # (B, T, C)
        for layer, block in enumerate(self.trf_blocks):
            queries, keys_values = self.project(layer, x)
            keys, values = keys_values
            if cache is not None:
                cache.write(layer, keys_values)
            if layer < len(self.trf_blocks) - 1:
                context = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
            else:  # all that is left to compute is what follows each prompt's last token
                x, queries = x[rows, last, None], queries[rows, :, last, None]  # T = 1
                seen = None
                if min(lengths) < num_tokens:
                    seen = (slots <= last[:, None])[:, None, None]  # (B, 1, 1, T)
                context = F.scaled_dot_product_attention(queries, keys, values, seen)
            x = finish_block(block, x, context)
        if cache is not None:
            cache.lengths = lengths
        return self.score(x)

    @torch.no_grad()
    def extend(self, next_ids, cache):
        """Go on by one token per sequence: read it, and keep its keys and values too.

        Args:
            next_ids: (B, 1) ids, one for each sequence in the cache.
            cache: a `KVCache` that has been filled.

        Returns:
            (B, V) logits of the token after it.

        Raises:
            ValueError: ids that do not belong to the sequences, or no slot is left.
        """
        check_extension(self, next_ids, cache)
        positions = torch.tensor(cache.lengths, device=next_ids.device)[:, None]  # (B, 1)
        seen = None  # of sequences of one length, everything is seen
        if min(cache.lengths) < max(cache.lengths):
            slots = torch.arange(max(cache.lengths) + 1, device=next_ids.device)
            seen = (slots <= positions)[:, None, None]  # (B, 1, 1, T)

        x = self.tok_emb(next_ids) + self.pos_emb(positions)  # (B, 1, C)
        for layer, block in enumerate(self.trf_blocks):
            queries, keys_values = self.project(layer, x)  # of the new token
            keys, values = cache.append(layer, keys_values)  # of all tokens
            context = F.scaled_dot_product_attention(queries, keys, values, seen)
            x = finish_block(block, x, context)
        cache.lengths = [length + 1 for length in cache.lengths]
        return self.score(x)

    def project(self, layer, x):
        """(B, T, C) -> queries (B, H, T, D); keys and values (2, B, H, T, D)."""
        block = self.trf_blocks[layer]
        joined = F.linear(normalize(block.norm1, x), *self.qkv[layer])  # (B, T, 3C)
        by_head = joined.view(*x.shape[:2], 3, block.att.num_heads, block.att.head_dim)
        by_kind = by_head.permute(2, 0, 3, 1, 4)  # (3, B, H, T, D)
        return by_kind[0], by_kind[1:]

    def score(self, x):
        """(B, 1, C) -> (B, V) logits."""
        return self.out_head(normalize(self.final_norm, x))[:, 0]

    def lay_out_weights(self):
        """Order the weights in memory so that a single token's products read them fastest.

        One token multiplies each matrix with a vector: there is little to compute, and the time
        goes into reading the matrix, which is fastest along long rows. So each matrix is stored
        with its longer side as rows, and the matrices of queries, keys and values as one.
        Parameters keep their names, shapes and numbers, and become views of the new memory. A
        parameter that was replaced since, as `model.to(...)` does, is laid out again.
        """
        for layer, block in enumerate(self.trf_blocks):
            attention = block.att
            thirds = [attention.W_query, attention.W_key, attention.W_value]
            joined = self.qkv[layer]
            if joined is None or not all(map(shares_memory, thirds, joined[0].chunk(3))):
                weight = wide(torch.cat([third.weight.data for third in thirds]))  # (3C, C)
                for third, part in zip(thirds, weight.chunk(3), strict=True):
                    third.weight.data = part
                self.qkv[layer] = (weight, None)
            if attention.W_query.bias is not None:
                bias = torch.cat([third.bias.data for third in thirds])
                self.qkv[layer] = (self.qkv[layer][0], bias)
            for linear in (block.ff.layers[0], block.ff.layers[2]):
                linear.weight.data = wide(linear.weight.data)
        self.out_head.weight.data = wide(self.out_head.weight.data)


def wide(weight):
    """The same matrix, its numbers in memory along the longer side; no copy if they are so."""
    num_rows, num_columns = weight.shape
    return weight.t().contiguous().t() if num_rows > num_columns else weight.contiguous()


def shares_memory(linear, part):
    """Whether the layer's weight is still the given part of a larger one."""
    weight = linear.weight
    return weight.data_ptr() == part.data_ptr() and weight.stride() == part.stride()


def normalize(norm, x):
    """What chapter 4's `LayerNorm` computes, in one call."""
    return F.layer_norm(x, norm.scale.shape, norm.scale, norm.shift, norm.eps)


def finish_block(block, x, context):
    """A block after its attention: (B, T, C) input, (B, H, T, D) heads -> (B, T, C)."""
    x = x + block.att.out_proj(context.transpose(1, 2).flatten(2))
    widen, _, narrow = block.ff.layers
    hidden = F.gelu(widen(normalize(block.norm2, x)), approximate="tanh")  # (B, T, 4C)
    return x + narrow(hidden)


def generate_text_cached(model, idx, max_new_tokens, context_size, cache=None):
    """The tokens of `generate_text_simple`, with the work of earlier steps kept.

    Args:
        model: a `GPTModelWithCache`.
        idx: (B, T) ids of prompts of one length, at least 1 and at most `context_size`.
        max_new_tokens: how many tokens to append.
        context_size: how many of the last tokens the model is given.
        cache: a `KVCache` to use, which is reset first; made for the call if not given.

    Returns:
        (B, T + max_new_tokens) ids.

    Raises:
        ValueError: as `generate_batch_cached` does.
    """
    if idx.dim() != 2:
        raise ValueError(f"The ids must be (batch, tokens), but have the shape {tuple(idx.shape)}.")
    sequences = generate_batch_cached(model, list(idx), max_new_tokens, context_size, cache)
    return torch.stack(sequences)


def generate_batch_cached(model, prompts, max_new_tokens, context_size, cache=None):
    """Append the likeliest next tokens to prompts of different lengths, all in one batch.

    Each sequence gets the tokens that it gets alone. As long as it fits `context_size`, a step
    reads one token. After that the window slides: each remaining token moves to another position
    and has lost one that it saw, so that no cached key is right any more, and every step computes
    the window again.

    Args:
        model: a `GPTModelWithCache`.
        prompts: a list of 1-D tensors of ids, each of 1 to `context_size`; no padding.
        max_new_tokens, context_size, cache: as in `generate_text_cached`.

    Returns:
        A list of 1-D tensors: each prompt and its new ids.

    Raises:
        ValueError: `max_new_tokens` below 0, no prompts, a prompt that is empty or longer than
            `context_size`, ids outside the vocabulary, a context longer than the model's, a cache
            that is too small, or logits that are not numbers.
    """
    check_request(model, prompts, max_new_tokens, context_size)
    lengths = [len(prompt) for prompt in prompts]
    num_sequences, total = len(prompts), max(lengths) + max_new_tokens
    if cache is None:
        weight = model.tok_emb.weight
        num_slots = min(context_size, total)
        cache = KVCache(model.cfg, num_sequences, num_slots, weight.dtype, weight.device)
    elif cache.num_slots < min(context_size, total):
        raise ValueError(
            f"{min(context_size, total)} tokens of a sequence have to be kept, but the cache has "
            f"{cache.num_slots} slots."
        )
    ids = prompts[0].new_zeros(num_sequences, total)  # filled from the left
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = prompt

    next_ids = None  # (B, 1), what the last step chose
    kept = list(range(num_sequences))  # the rows whose keys in the cache are right
    for step in range(max_new_tokens):
        fit = [row for row in kept if lengths[row] <= context_size]
        slid = [row for row in range(num_sequences) if row not in fit]
        if len(fit) < len(kept):
            cache.keep([kept.index(row) for row in fit])
            kept = fit
        if step == 0:
            logits = model.fill(ids[:, : max(lengths)], lengths, cache)  # (B, V)
        elif not slid:
            logits = model.extend(next_ids, cache)
        else:
            if kept:
                logits[kept] = model.extend(next_ids[kept], cache)
            windows = [ids[row, lengths[row] - context_size : lengths[row]] for row in slid]
            logits[slid] = model.fill(torch.stack(windows))
        next_ids = logits.argmax(dim=-1, keepdim=True)  # of a row with a NaN, that one's id
        if logits.gather(1, next_ids).isnan().any():
            raise ValueError("The logits are NaN: the model's weights are damaged or diverged.")
        for row, next_id in enumerate(next_ids):
            ids[row, lengths[row]] = next_id[0]
            lengths[row] += 1
    return [row[:length].clone() for row, length in zip(ids, lengths, strict=True)]


def check_prompts(model, in_idx, lengths, cache):
    """Raise a ValueError unless the prompts fit the model and the cache; their shape (B, T)."""
    check_ids(in_idx, model.cfg["vocab_size"], model.cfg["context_length"])
    num_sequences, num_tokens = in_idx.shape
    if in_idx.numel() == 0:
        raise ValueError(f"The prompts of shape {tuple(in_idx.shape)} have no token to go on from.")
    if lengths is not None:
        if len(lengths) != num_sequences:
            raise ValueError(f"There are {num_sequences} prompts, but {len(lengths)} lengths.")
        if min(lengths) < 1 or max(lengths) > num_tokens:
            raise ValueError(
                f"The lengths run from {min(lengths)} to {max(lengths)}, but prompts in "
                f"{num_tokens} columns have 1 to {num_tokens} tokens."
            )
    if cache is not None and num_sequences > cache.batch_size:
        raise ValueError(
            f"There are {num_sequences} sequences, but the cache has room for {cache.batch_size}."
        )
    if cache is not None and num_tokens > cache.num_slots:
        raise ValueError(
            f"The prompts have {num_tokens} tokens, but the cache has {cache.num_slots} slots."
        )
    return num_sequences, num_tokens


def check_extension(model, next_ids, cache):
    """Raise a ValueError unless there is one valid id for each sequence, and a slot for it."""
    check_ids(next_ids, model.cfg["vocab_size"], model.cfg["context_length"])
    if not cache.lengths:
        raise ValueError("The cache holds 0 sequences: fill it with at least 1 prompt first.")
    if next_ids.shape != (len(cache.lengths), 1):
        raise ValueError(
            f"The cache holds {len(cache.lengths)} sequences, which go on by ids of the shape "
            f"({len(cache.lengths)}, 1), but these have {tuple(next_ids.shape)}."
        )
    if max(cache.lengths) >= cache.num_slots:
        raise ValueError(
            f"A sequence has {max(cache.lengths)} tokens in the cache, which has "
            f"{cache.num_slots} slots: there is none for another."
        )


def check_request(model, prompts, max_new_tokens, context_size):
    """Raise a ValueError, with both numbers, for what cannot be generated."""
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens must be at least 0, but is {max_new_tokens}.")
    if not 1 <= context_size <= model.cfg["context_length"]:
        raise ValueError(
            f"context_size must be 1 to the model's context_length={model.cfg['context_length']}, "
            f"but is {context_size}."
        )
    if not prompts:
        raise ValueError("There are 0 prompts, but at least 1 is needed.")
    for number, prompt in enumerate(prompts):
        if prompt.dim() != 1:
            raise ValueError(
                f"Prompt {number} must have 1 dimension, but its shape is {tuple(prompt.shape)}."
            )
        if not 1 <= len(prompt) <= context_size:
            advice = f" It can be cut: ids[-{context_size}:]." if len(prompt) else ""
            raise ValueError(
                f"Prompt {number} has {len(prompt)} tokens, but must have 1 to "
                f"context_size={context_size}.{advice}"
            )


def main(cfg=GPT_CONFIG_124M, num_prompt_tokens=4, max_new_tokens=20):
    """Let an untrained model write without a cache and with one, and compare ids and seconds."""
    torch.manual_seed(123)
    model = GPTModel(cfg).eval()
    cached_model = GPTModelWithCache(cfg).eval()
    cached_model.load_state_dict(model.state_dict())
    idx = torch.randint(cfg["vocab_size"], (1, num_prompt_tokens))
    outputs = []
    for name, generate, writer in [
        ("without a cache", generate_text_simple, model),
        ("with a cache", generate_text_cached, cached_model),
    ]:
        start = time.perf_counter()
        outputs.append(generate(writer, idx, max_new_tokens, cfg["context_length"]))
        print(f"{name}: {max_new_tokens} tokens in {time.perf_counter() - start:.2f} s")
    print("same ids:", torch.equal(*outputs))


if __name__ == "__main__":
    main()
