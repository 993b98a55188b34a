"""GPT-2's published weights: fetched, verified, and copied into a `GPTModel` (book, section 5.5).

Shapes: V vocabulary, T positions, C width of a token's vector, L blocks.

GPT-2 keeps each matrix as (inputs, outputs), `nn.Linear` as (outputs, inputs). GPT-2 has one matrix
for queries, keys and values, (C, 3C). Weights are read from safetensors files alone.
"""

import json
import mmap
import os
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

import companion

FILE = "model.safetensors"
SETTINGS = {
    size: {"n_vocab": 50257, "n_ctx": 1024, "n_embd": width, "n_head": heads, "n_layer": blocks}
    for size, width, heads, blocks in [
        ("124M", 768, 12, 12),
        ("355M", 1024, 16, 24),
        ("774M", 1280, 20, 36),
        ("1558M", 1600, 25, 48),
    ]
}

# What one block has: GPT-2's name, and that of `TransformerBlock`.
LINEAR = {"attn.c_proj": "att.out_proj", "mlp.c_fc": "ff.layers.0", "mlp.c_proj": "ff.layers.2"}
NORMS = {"ln_1": "norm1", "ln_2": "norm2"}
QUERY_KEY_VALUE = ("W_query", "W_key", "W_value")  # in this order in attn.c_attn


# Fetching and reading


def download_and_load_gpt2(model_size, models_dir):
    """Settings and weights of GPT-2, downloaded at the first call.

    Args:
        model_size: "124M", "355M", "774M" or "1558M".
        models_dir: folder, in which the file has the place <model_size>/model.safetensors.

    Returns:
        The settings {n_vocab, n_ctx, n_embd, n_head, n_layer} and the tree of
        `params_from_safetensors`.

    Raises:
        ValueError: there is no such size; or the file there is no model of that size.
        AssetError: the file cannot be had; says why, and how to put it there by hand.

    Source: book, section 5.5.
    """
    if model_size not in SETTINGS:
        raise ValueError(f"model_size must be one of {', '.join(SETTINGS)}, but is {model_size!r}.")
    path = companion.asset(f"{model_size}/{FILE}", Path(models_dir))
    params = params_from_safetensors(path)
    settings = SETTINGS[model_size]
    found = {
        "n_vocab": len(params["wte"]),
        "n_ctx": len(params["wpe"]),
        "n_embd": params["wte"].shape[1],
        "n_layer": len(params["blocks"]),
    }
    different = [
        f"{key} is {found[key]} there, but {settings[key]} in {model_size}"
        for key in found
        if found[key] != settings[key]
    ]
    if different:
        raise ValueError(f"{path} is another model: {'; '.join(different)}.")
    return dict(settings), params


def params_from_safetensors(path):
    """The weights of a GPT-2 file in the layout of Hugging Face, as a tree of arrays.

    The arrays are read-only views of the file: reading takes no memory until one is used.

    Returns:
        A dictionary of wte (V, C), wpe (T, C), g and b (C,), the last normalization's scale and
        shift, and blocks, a list of L dictionaries. Each has attn.c_attn (C, 3C), attn.c_proj
        (C, C), mlp.c_fc (C, 4C), mlp.c_proj (4C, C), as {"w": matrix, "b": vector}, and ln_1, ln_2
        as {"g": (C,), "b": (C,)}; attn.c_attn means ["attn"]["c_attn"].

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is a pickle, damaged, or has a tensor too few, too many or of another shape.

    Source: book, section 5.5.
    """
    tensors = map_tensors(path)
    check_tensors(tensors, path)
    params = {"wte": tensors["wte.weight"], "wpe": tensors["wpe.weight"], "blocks": []}
    params["g"], params["b"] = tensors["ln_f.weight"], tensors["ln_f.bias"]
    for block in range(sum(name.endswith(".ln_1.weight") for name in tensors)):
        tree = {"attn": {}, "mlp": {}}
        for layer in ["attn.c_attn", *LINEAR]:
            group, name = layer.split(".")
            there = f"h.{block}.{layer}"
            tree[group][name] = {"w": tensors[f"{there}.weight"], "b": tensors[f"{there}.bias"]}
        for norm in NORMS:
            there = f"h.{block}.{norm}"
            tree[norm] = {"g": tensors[f"{there}.weight"], "b": tensors[f"{there}.bias"]}
        params["blocks"].append(tree)
    return params


def map_tensors(path):
    """{name: read-only array} of a safetensors file, without `transformer.` and old files' masks.

    Raises:
        FileNotFoundError, ValueError: as `params_from_safetensors`.
    """
    check_header(path)
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    start = 8 + int.from_bytes(mapped[:8], "little")  # the header's length, the header, the data
    header = json.loads(mapped[8:start])
    header.pop("__metadata__", None)
    tensors = {}
    for full_name, entry in header.items():
        name = full_name.removeprefix("transformer.")
        if re.fullmatch(r"h\.\d+\.attn\.(masked_)?bias", name):
            continue
        if entry["dtype"] != "F32":
            raise ValueError(f"{path}: {name} must be of type F32, but is {entry['dtype']}.")
        first, last = entry["data_offsets"]
        array = np.frombuffer(mapped, "<f4", count=(last - first) // 4, offset=start + first)
        tensors[name] = array.reshape(entry["shape"])
    return tensors


def check_header(path):
    """Raise a ValueError unless the file is a whole safetensors file."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        with safe_open(path, framework="numpy"):
            return
    except SafetensorError as error:
        with open(path, "rb") as file:
            beginning = file.read(4)
        if beginning[:1] == b"\x80" or beginning == b"PK\x03\x04":
            raise ValueError(
                f"{path} is a pickle, as torch.save writes them. Opening one can run any code that "
                f"it brings along, so it is refused: get the model's {FILE} instead."
            ) from error
        raise ValueError(
            f"{path} ({os.path.getsize(path):,} bytes) is damaged, or no safetensors file: {error}."
            " Delete it and get it again."
        ) from error


def check_tensors(tensors, path):
    """Raise a ValueError that names a tensor too few, too many or of another shape, and shapes."""
    for name in ("wte.weight", "wpe.weight"):  # the sizes of all others follow from these
        if name not in tensors or tensors[name].ndim != 2:
            found = f"has the shape {tensors[name].shape}" if name in tensors else "is missing"
            raise ValueError(f"{path}: {name} {found}, but must be a table with two dimensions.")
    num_blocks = len({name.split(".")[1] for name in tensors if name.startswith("h.")})
    expected = expected_shapes(tensors["wte.weight"], tensors["wpe.weight"], num_blocks)
    found = {name: tensor.shape for name, tensor in tensors.items()}
    faults = list(shape_faults(expected, found))
    if faults:
        raise ValueError(f"{path} does not hold a GPT-2. {summary(faults)}")


def expected_shapes(wte, wpe, num_blocks):
    """{name: shape} of all tensors of a GPT-2 with these tables (V, C) and (T, C)."""
    width = wte.shape[1]
    shapes = {"wte.weight": wte.shape, "wpe.weight": (len(wpe), width)}
    norms = ["ln_f", *(f"h.{block}.{norm}" for block in range(num_blocks) for norm in NORMS)]
    for norm in norms:
        shapes[f"{norm}.weight"] = shapes[f"{norm}.bias"] = (width,)
    for block in range(num_blocks):
        for layer, inputs, outputs in [
            ("attn.c_attn", width, 3 * width),
            ("attn.c_proj", width, width),
            ("mlp.c_fc", width, 4 * width),
            ("mlp.c_proj", 4 * width, width),
        ]:
            shapes[f"h.{block}.{layer}.weight"] = (inputs, outputs)
            shapes[f"h.{block}.{layer}.bias"] = (outputs,)
    return shapes


def shape_faults(expected, found):
    """A sentence on each name for which two {name: shape} differ."""
    for name in sorted(expected.keys() | found):
        if name not in found:
            yield f"{name} is missing, of the shape {tuple(expected[name])}."
        elif name not in expected:
            yield f"{name} is too many, of the shape {tuple(found[name])}."
        elif tuple(found[name]) != tuple(expected[name]):
            yield (
                f"{name} has the shape {tuple(found[name])}, but must have {tuple(expected[name])}."
            )


def summary(faults, most=5):
    """The first sentences, and how many more there are."""
    more = f" And {len(faults) - most} more." if len(faults) > most else ""
    return " ".join(faults[:most]) + more


# Into a model


def assign(left, right):
    """A new parameter with a copy of `right`, in the number type of `left`.

    Raises:
        ValueError: their shapes differ.

    Source: book, section 5.5.
    """
    if tuple(left.shape) != tuple(right.shape):
        raise ValueError(f"The shapes differ: {tuple(left.shape)} and {tuple(right.shape)}.")
    return nn.Parameter(torch.tensor(right, dtype=left.dtype).contiguous())


def load_weights_into_gpt(gpt, params):
    """Give a model GPT-2's weights; the output head gets a copy of the token embedding.

    The model's parameters stay the same objects, on the same device: `assign` to each would need
    memory for old and new ones.

    Args:
        gpt: a `GPTModel` of the same sizes, with `qkv_bias` True.
        params: the tree of `params_from_safetensors`.

    Raises:
        ValueError: a parameter is missing on one side or has another shape; the model is unchanged.

    Source: book, section 5.5.
    """
    weights = in_our_names(params)
    own = dict(gpt.named_parameters(remove_duplicate=False))
    expected = {name: tensor.shape for name, tensor in own.items()}
    faults = list(shape_faults(expected, {name: array.shape for name, array in weights.items()}))
    if faults:
        hint = "" if "trf_blocks.0.att.W_query.bias" in own else " GPT-2 needs qkv_bias True."
        raise ValueError(f"The weights do not fit the model. {summary(faults)}{hint}")
    for name, right in weights.items():
        copy_in_place(own[name], right)


@torch.no_grad()
def copy_in_place(left, right, num_rows=1024):
    """Copy an array into a tensor, some rows at a time: what was read does not pile up."""
    for first in range(0, len(right), num_rows):
        left[first : first + num_rows] = torch.tensor(right[first : first + num_rows])
        forget_pages(right)


def in_our_names(params):
    """{name of a `GPTModel`'s parameter: array}, views of the tree, with the shapes we need."""
    ours = {"tok_emb.weight": params["wte"], "out_head.weight": params["wte"]}
    ours["pos_emb.weight"] = params["wpe"]
    ours["final_norm.scale"], ours["final_norm.shift"] = params["g"], params["b"]
    for number, block in enumerate(params["blocks"]):
        here, joined = f"trf_blocks.{number}", block["attn"]["c_attn"]
        for layer, w, b in zip(
            QUERY_KEY_VALUE,
            np.split(joined["w"], 3, axis=-1),  # (C, 3C) -> three of (C, C)
            np.split(joined["b"], 3, axis=-1),  # (3C,) -> three of (C,)
            strict=True,
        ):
            ours[f"{here}.att.{layer}.weight"], ours[f"{here}.att.{layer}.bias"] = w.T, b
        for theirs, mine in LINEAR.items():
            group, name = theirs.split(".")
            ours[f"{here}.{mine}.weight"] = block[group][name]["w"].T
            ours[f"{here}.{mine}.bias"] = block[group][name]["b"]
        for theirs, mine in NORMS.items():
            ours[f"{here}.{mine}.scale"] = block[theirs]["g"]
            ours[f"{here}.{mine}.shift"] = block[theirs]["b"]
    return ours


def forget_pages(array):
    """Give back the memory of what was read of a mapped file; it can be read again.

    The system would do so by itself, but not before memory is short.
    """
    owner = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    mapped = getattr(owner, "obj", owner)  # of the memoryview that NumPy makes
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        mapped.madvise(mmap.MADV_DONTNEED)


# Back again


def export_to_transformers(gpt, folder):
    """Write a model as a folder that `transformers` loads, with GPT-2's tokenizer.

    `GPT2LMHeadModel.from_pretrained(folder)` then has the same logits.

    Args:
        gpt: a `GPTModel` with GPT-2's vocabulary.
        folder: made if it does not exist; files of an earlier export are replaced.

    Raises:
        ValueError: the model's vocabulary has another size than the tokenizer's.
        OSError: a file could not be written; nothing half-written is left.
    """
    config = transformers_config(gpt)
    if config["vocab_size"] != SETTINGS["124M"]["n_vocab"]:
        raise ValueError(
            f"The model's vocabulary has {config['vocab_size']:,} tokens, but GPT-2's tokenizer, "
            f"which is written beside it, {SETTINGS['124M']['n_vocab']:,}."
        )
    merges, vocabulary = companion.tokenizer_files()
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as unfinished:
            for name, content in {
                "config.json": config,
                "tokenizer_config.json": {
                    "tokenizer_class": "GPT2Tokenizer",
                    "model_max_length": config["n_positions"],
                },
            }.items():
                Path(unfinished, name).write_text(json.dumps(content, indent=2), encoding="utf-8")
            shutil.copyfile(merges, Path(unfinished, "merges.txt"))
            shutil.copyfile(vocabulary, Path(unfinished, "vocab.json"))
            save_file(in_their_names(gpt), Path(unfinished, FILE), metadata={"format": "pt"})
            for path in Path(unfinished).iterdir():
                os.replace(path, folder / path.name)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"Could not write the model to {folder}: {error}. Make room, or name another folder."
        ) from error


def transformers_config(gpt):
    """config.json of the model, in the words of `transformers`."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": gpt.tok_emb.num_embeddings,
        "n_positions": gpt.pos_emb.num_embeddings,
        "n_embd": gpt.tok_emb.embedding_dim,
        "n_layer": len(gpt.trf_blocks),
        "n_head": gpt.trf_blocks[0].att.num_heads,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": gpt.final_norm.eps,
        **dict.fromkeys(["embd_pdrop", "resid_pdrop", "attn_pdrop"], gpt.drop_emb.p),
        "tie_word_embeddings": torch.equal(gpt.out_head.weight, gpt.tok_emb.weight),
        "bos_token_id": 50256,
        "eos_token_id": 50256,
    }


def in_their_names(gpt):
    """{name of a `GPT2LMHeadModel`'s parameter: tensor}; the head only where it is not the table.

    `transformers` has biases for queries, keys and values in any case: zeros, where we have none.
    """
    own = {name: tensor.detach() for name, tensor in gpt.named_parameters(remove_duplicate=False)}
    theirs = {"wte.weight": own["tok_emb.weight"], "wpe.weight": own["pos_emb.weight"]}
    theirs["ln_f.weight"], theirs["ln_f.bias"] = own["final_norm.scale"], own["final_norm.shift"]
    for number, block in enumerate(gpt.trf_blocks):
        here, there = f"trf_blocks.{number}", f"h.{number}"
        weights = [own[f"{here}.att.{layer}.weight"].T for layer in QUERY_KEY_VALUE]  # (C, C)
        zeros = torch.zeros_like(block.norm1.shift)
        biases = [own.get(f"{here}.att.{layer}.bias", zeros) for layer in QUERY_KEY_VALUE]
        theirs[f"{there}.attn.c_attn.weight"] = torch.cat(weights, dim=1)  # (C, 3C)
        theirs[f"{there}.attn.c_attn.bias"] = torch.cat(biases).detach()  # (3C,)
        for name, mine in LINEAR.items():
            theirs[f"{there}.{name}.weight"] = own[f"{here}.{mine}.weight"].T.contiguous()
            theirs[f"{there}.{name}.bias"] = own[f"{here}.{mine}.bias"]
        for name, mine in NORMS.items():
            theirs[f"{there}.{name}.weight"] = own[f"{here}.{mine}.scale"]
            theirs[f"{there}.{name}.bias"] = own[f"{here}.{mine}.shift"]
    theirs = {f"transformer.{name}": tensor for name, tensor in theirs.items()}
    if not torch.equal(own["out_head.weight"], own["tok_emb.weight"]):
        theirs["lm_head.weight"] = own["out_head.weight"]
    return theirs
