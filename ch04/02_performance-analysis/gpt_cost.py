"""What a GPT costs: parameters, memory and floating-point operations, term by term.

Shapes: B batch, T tokens.
One multiplication with the addition that follows it counts as 2 FLOPs (floating-point operations).
Run it for the four GPT-2 sizes, and for this machine's speed: python gpt_cost.py
"""

import time
from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from companion import timings
from gpt import GPT_CONFIG_124M, GPTModel

GPT2_SIZES = {
    "124M": GPT_CONFIG_124M,
    "355M": {**GPT_CONFIG_124M, "emb_dim": 1024, "n_layers": 24, "n_heads": 16},
    "774M": {**GPT_CONFIG_124M, "emb_dim": 1280, "n_layers": 36, "n_heads": 20},
    "1558M": {**GPT_CONFIG_124M, "emb_dim": 1600, "n_layers": 48, "n_heads": 25},
}
FLOAT = 4  # bytes of a 32-bit floating-point number
GIB = 1024**3


def parameter_terms(cfg):
    """{part: number of parameters} of `GPTModel(cfg)`."""
    vocab, width, layers = cfg["vocab_size"], cfg["emb_dim"], cfg["n_layers"]
    qkv_bias = width if cfg["qkv_bias"] else 0
    return {
        "token embedding": vocab * width,
        "position embedding": cfg["context_length"] * width,
        "queries, keys, values": layers * 3 * (width * width + qkv_bias),
        "attention's output": layers * (width * width + width),
        "feed-forward": layers * (width * 4 * width + 4 * width + 4 * width * width + width),
        "layer norms": (2 * layers + 1) * 2 * width,
        "output head": width * vocab,
    }


def tied_parameters(cfg):
    """Number of parameters where the output head is the token embedding, as OpenAI's is."""
    terms = parameter_terms(cfg)
    return sum(terms.values()) - terms["output head"]


def flop_terms(cfg, batch_size, num_tokens):
    """{part: FLOPs} of the matrix products of one forward pass over B x T tokens."""
    vocab, width, layers = cfg["vocab_size"], cfg["emb_dim"], cfg["n_layers"]
    tokens = batch_size * num_tokens
    return {
        "queries, keys, values": layers * 2 * tokens * width * 3 * width,
        "attention scores": layers * 2 * tokens * width * num_tokens,
        "weighted values": layers * 2 * tokens * num_tokens * width,
        "attention's output": layers * 2 * tokens * width * width,
        "feed-forward": layers * 2 * tokens * (width * 4 * width + 4 * width * width),
        "output head": 2 * tokens * width * vocab,
    }


def training_flops(cfg, batch_size, num_tokens):
    """FLOPs of a forward and a backward pass.

    Each product of the forward pass has two in the backward pass: one for the gradient of each of
    its two factors.
    """
    return 3 * sum(flop_terms(cfg, batch_size, num_tokens).values())


def activation_terms(cfg, batch_size, num_tokens):
    """{part: bytes} that a training step on the CPU keeps from the forward to the backward pass.

    Not counted: a few bytes for each token (ids, the root of each variance).
    """
    width, layers = cfg["emb_dim"], cfg["n_layers"]
    weights = cfg["n_heads"] * num_tokens  # of one token's attention
    per_token = {
        "layer norms": (2 * layers + 1) * 3 * width,  # input, less its mean, times the scale
        "inputs of linear layers": layers * (1 + 1 + 1 + 4) * width + width,  # last: of the head
        "queries, keys, values": layers * 3 * width,
        "attention weights": layers * weights,
        "GELU": layers * 4 * 4 * width,  # x, x / 2, the tanh, 1 + tanh
        "log-softmax of the loss": cfg["vocab_size"],
    }
    if cfg["drop_rate"] > 0:  # its factors, and the attention weights times theirs
        per_token["dropout"] = layers * (2 * width + 2 * weights) + width
    num_bytes = {part: batch_size * num_tokens * n * FLOAT for part, n in per_token.items()}
    return {**num_bytes, "causal mask": layers * num_tokens**2}  # a byte an entry


def memory_terms(cfg, batch_size, num_tokens):
    """{part: bytes} of training with AdamW in 32 bits."""
    parameters = sum(parameter_terms(cfg).values())
    return {
        "weights": parameters * FLOAT,
        "gradients": parameters * FLOAT,
        "AdamW's two averages": 2 * parameters * FLOAT,
        "mask buffers": cfg["n_layers"] * cfg["context_length"] ** 2 * FLOAT,
        "activations": sum(activation_terms(cfg, batch_size, num_tokens).values()),
    }


# The same figures, counted on the model itself


def loss_on_zeros(model, batch_size, num_tokens):
    """The cross-entropy of a batch whose ids are all 0: costs do not depend on the ids."""
    device = model.out_head.weight.device
    ids = torch.zeros(batch_size, num_tokens, dtype=torch.long, device=device)
    return torch.nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten())


def model_without_memory(cfg):
    """The model on PyTorch's "meta" device: every tensor has a shape, none has numbers."""
    with torch.device("meta"):
        return GPTModel(cfg)


def counted_flops(cfg, batch_size, num_tokens, training=False):
    """FLOPs that PyTorch's own counter sees, with the backward pass where `training`."""
    model = model_without_memory(cfg)
    with FlopCounterMode(display=False) as counter:
        loss = loss_on_zeros(model, batch_size, num_tokens)
        if training:
            loss.backward()
    return counter.get_total_flops()


def counted_activations(cfg, batch_size, num_tokens):
    """Bytes that autograd saves for the backward pass, parameters and buffers left out.

    Builds the model for real, so choose a small one.
    """
    model = GPTModel(cfg)
    own = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    saved = {}  # where a tensor's numbers lie -> them; tensors that share numbers count once

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = loss_on_zeros(model, batch_size, num_tokens)
    num_bytes = sum(storage.nbytes() for storage in saved.values())
    del loss  # until here it kept everything alive
    return num_bytes


# This machine


def best_seconds(work, repeats):
    """Seconds of the fastest of several runs: what disturbs a run only ever makes it longer."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def matmul_ceiling(sizes=(768, 1024, 1536, 2048), repeats=8):
    """FLOPs per second of the fastest product of two square matrices of 32-bit numbers."""
    speeds = []
    for size in sizes:
        a, b = torch.rand(size, size), torch.rand(size, size)
        result = torch.empty(size, size)
        torch.mm(a, b, out=result)  # the first call is slower
        seconds = best_seconds(partial(torch.mm, a, b, out=result), repeats)
        speeds.append(2 * size**3 / seconds)
    return max(speeds)


def forward_speed(model, cfg, batch_size, num_tokens, repeats=5):
    """FLOPs per second of the forward pass: those that the model needs, by the time it takes."""
    ids = torch.randint(cfg["vocab_size"], (batch_size, num_tokens))
    model.eval()
    with torch.no_grad():
        model(ids)  # the first call is slower
        seconds = best_seconds(lambda: model(ids), repeats)
    return sum(flop_terms(cfg, batch_size, num_tokens).values()) / seconds


def machine():
    """The processor's name and the threads that PyTorch uses."""
    threads = torch.get_num_threads()
    used = f"{threads} thread{'s' if threads > 1 else ''} used"
    return f"{timings.machine()}, {used}, torch {torch.__version__}"


def print_sizes(num_tokens=1024):
    """One Markdown row for each size of GPT-2."""
    print(
        "| model | parameters | with a tied head | weights | + gradients, AdamW "
        f"| + activations of {num_tokens:,} tokens | GFLOPs per token: forward | training |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    for name, cfg in GPT2_SIZES.items():
        memory = memory_terms(cfg, 1, num_tokens)
        state = memory["weights"] + memory["gradients"] + memory["AdamW's two averages"]
        forward = sum(flop_terms(cfg, 1, num_tokens).values()) / num_tokens
        training = training_flops(cfg, 1, num_tokens) / num_tokens
        print(
            f"| {name} | {sum(parameter_terms(cfg).values()):,} | {tied_parameters(cfg):,} "
            f"| {memory['weights'] / GIB:.2f} GiB | {state / GIB:.2f} GiB "
            f"| {sum(memory.values()) / GIB:.2f} GiB "
            f"| {forward / 1e9:.3f} | {training / 1e9:.3f} |"
        )


def print_utilization(cfg=GPT_CONFIG_124M, batch_size=2, num_tokens=256):
    """This machine's ceiling, and how much of it the forward pass reaches."""
    ceiling = matmul_ceiling()
    speed = forward_speed(GPTModel(cfg), cfg, batch_size, num_tokens)
    seconds = sum(flop_terms(cfg, batch_size, num_tokens).values()) / speed
    print(f"Machine: {machine()}\n")
    print("| 32-bit floating point | GFLOP/s | share |\n|---|---|---|")
    print(f"| the fastest product of square matrices | {ceiling / 1e9:.0f} | 100 % |")
    print(
        f"| forward pass, {batch_size} x {num_tokens} tokens, {seconds:.2f} s "
        f"| {speed / 1e9:.0f} | {speed / ceiling:.0%} |"
    )


def main():
    print_sizes()
    print()
    print_utilization()


if __name__ == "__main__":
    main()
