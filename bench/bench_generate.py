"""Time greedy generation without a cache, with ours, and by `transformers`; print two tables.

    python bench/bench_generate.py                    # 200 new tokens, GPT-2 small, float32, CPU
    python bench/bench_generate.py --new-tokens 50    # sooner

All three have the same random weights and must choose the same ids. Each writer takes its turn in
every round, and its best round counts. The bandwidth is that of a matrix-vector product with a
matrix of 1 GB, measured in every round too; the share says how much of it a writer reaches, where
each weight is read once per token (of the embeddings, one row).
"""

import argparse
import time
from functools import partial

import torch
import transformers

import companion
from companion.timings import machine
from gpt import GPT_CONFIG_124M, GPTModel, generate_text_simple
from gpt_with_kv_cache import GPTModelWithCache, generate_text_cached

PROMPT_TOKENS = 4
ROUNDS = 3
MATRIX_SIDE = 16_384  # 1 GB, far more than any processor's cache
SLIDING_STEPS = 3
AT_LEAST_UNCACHED, AT_LEAST_TRANSFORMERS, AIM_BANDWIDTH = 5, 1.2, 0.85


def hugging_face_copy(model, cfg, **settings):
    """A `GPT2LMHeadModel` with a `GPTModel`'s weights, its output matrix a separate one too.

    `settings` are more of `GPT2Config`'s.
    """
    config = transformers.GPT2Config(
        vocab_size=cfg["vocab_size"],
        n_positions=cfg["context_length"],
        n_embd=cfg["emb_dim"],
        n_layer=cfg["n_layers"],
        n_head=cfg["n_heads"],
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,  # so that nothing ends the text early
        pad_token_id=None,
        **settings,
    )
    theirs = transformers.GPT2LMHeadModel(config).eval()
    pairs = [
        (theirs.transformer.wte.weight, model.tok_emb.weight),
        (theirs.transformer.wpe.weight, model.pos_emb.weight),
        (theirs.lm_head.weight, model.out_head.weight),
        (theirs.transformer.ln_f.weight, model.final_norm.scale),
        (theirs.transformer.ln_f.bias, model.final_norm.shift),
    ]
    for to, block in zip(theirs.transformer.h, model.trf_blocks, strict=True):
        attention, widen, narrow = block.att, block.ff.layers[0], block.ff.layers[2]
        thirds = [attention.W_query, attention.W_key, attention.W_value]
        pairs += [
            (to.ln_1.weight, block.norm1.scale),
            (to.ln_1.bias, block.norm1.shift),
            (to.attn.c_attn.weight, torch.cat([third.weight for third in thirds]).t()),
            (to.attn.c_attn.bias, torch.zeros(3 * cfg["emb_dim"])),
            (to.attn.c_proj.weight, attention.out_proj.weight.t()),
            (to.attn.c_proj.bias, attention.out_proj.bias),
            (to.ln_2.weight, block.norm2.scale),
            (to.ln_2.bias, block.norm2.shift),
            (to.mlp.c_fc.weight, widen.weight.t()),
            (to.mlp.c_fc.bias, widen.bias),
            (to.mlp.c_proj.weight, narrow.weight.t()),
            (to.mlp.c_proj.bias, narrow.bias),
        ]
    with torch.no_grad():
        for target, source in pairs:
            target.copy_(source)
    return theirs


def bytes_per_token(model):
    """Bytes of weights that one token's forward pass reads: all, but one row of an embedding."""
    embeddings = [model.tok_emb.weight, model.pos_emb.weight]
    all_bytes = sum(parameter.nbytes for parameter in model.parameters())
    return all_bytes - sum(weight.nbytes - weight[0].nbytes for weight in embeddings)


def seconds_of(work):
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def bandwidth(matrix, vector):
    """Bytes per second that a matrix-vector product reads."""
    return matrix.nbytes / seconds_of(partial(torch.mv, matrix, vector))[0]


def bench_generation(writers, matrix, rounds):
    """{name: best seconds}, the best bandwidth, and whether all writers gave the same ids."""
    vector = torch.ones(matrix.shape[1])
    best, outputs, fastest = {}, {}, 0.0
    for _ in range(rounds):
        for name, writer in writers.items():
            fastest = max(fastest, bandwidth(matrix, vector), bandwidth(matrix, vector))
            seconds, outputs[name] = seconds_of(writer)
            best[name] = min(seconds, best.get(name, seconds))
    first, *others = outputs.values()
    return best, fastest, all(torch.equal(first, other) for other in others)


def verdict(is_met):
    return "met" if is_met else "NOT met"


@torch.no_grad()
def main(new_tokens, threads=None, cfg=GPT_CONFIG_124M):
    companion.setup()
    if threads is not None:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = GPTModel(cfg).eval()
    cached_model = GPTModelWithCache(cfg).eval()
    cached_model.load_state_dict(model.state_dict())
    theirs = hugging_face_copy(model, cfg)
    context_size = cfg["context_length"]
    prompt = torch.randint(cfg["vocab_size"], (1, PROMPT_TOKENS))
    matrix = torch.ones(MATRIX_SIDE, MATRIX_SIDE)

    writers = {
        "no cache": partial(generate_text_simple, model, prompt, new_tokens, context_size),
        "our cache": partial(generate_text_cached, cached_model, prompt, new_tokens, context_size),
        "transformers": partial(
            theirs.generate,
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=new_tokens,
            do_sample=False,
            use_cache=True,
        ),
    }
    best, fastest, same = bench_generation(writers, matrix, ROUNDS)
    assert same, "The three writers chose different ids."

    read = bytes_per_token(model)
    print(f"\nMachine: {machine()}, {torch.get_num_threads()} threads")
    print(f"Software: torch {torch.__version__}, transformers {transformers.__version__}")
    print(f"Model: {sum(p.numel() for p in model.parameters()):,} parameters, float32")
    print(f"Memory bandwidth of a matrix-vector product: {fastest / 1e9:.1f} GB/s")
    print(f"Weights read per token: {read / 1e9:.3f} GB\n")
    print(f"| {new_tokens} new tokens | seconds | tokens/s | times no cache | share of bandwidth |")
    print("|---|---|---|---|---|")
    shares = {}
    for name, seconds in best.items():
        rate = new_tokens / seconds
        shares[name] = rate * read / fastest
        share = "" if name == "no cache" else f"{shares[name]:.0%}"
        times = best["no cache"] / seconds
        print(f"| {name} | {seconds:.2f} | {rate:.1f} | {times:.1f} | {share} |")
    ours = best["our cache"]
    over_uncached, over_theirs = best["no cache"] / ours, best["transformers"] / ours
    is_fast = over_uncached >= AT_LEAST_UNCACHED
    is_faster = over_theirs >= AT_LEAST_TRANSFORMERS
    print(f"\nSame ids: {same}.")
    print(f"At least {AT_LEAST_UNCACHED} times no cache: {verdict(is_fast)} ({over_uncached:.1f}).")
    print(
        f"At least {AT_LEAST_TRANSFORMERS} times transformers: {verdict(is_faster)} "
        f"({over_theirs:.2f})."
    )
    share = shares["our cache"]
    print(f"Aim of {AIM_BANDWIDTH:.0%} of the bandwidth: {verdict(share >= AIM_BANDWIDTH)}.\n")

    full = torch.randint(cfg["vocab_size"], (1, context_size))
    sliding = {
        "no cache": partial(generate_text_simple, model, full, SLIDING_STEPS, context_size),
        "our cache": partial(generate_text_cached, cached_model, full, SLIDING_STEPS, context_size),
    }
    best, _, same = bench_generation(sliding, matrix, rounds=2)
    assert same, "The two writers chose different ids."
    print(f"| a window of {context_size} tokens that slides | seconds per token | ratio |")
    print("|---|---|---|")
    for name, seconds in best.items():
        print(f"| {name} | {seconds / SLIDING_STEPS:.2f} | {best['no cache'] / seconds:.1f} |")
    print(f"\nSame ids: {same}.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--new-tokens", type=int, default=200, help="how many each writes")
    parser.add_argument("--threads", type=int, help="PyTorch's own choice if not given")
    arguments = parser.parse_args()
    main(arguments.new_tokens, arguments.threads)
