"""GPT-2's weights by way of a local server, against `transformers`, and back again."""

import hashlib
import io
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import companion
import gpt_generate
from companion import assets
from gpt import GPTModel, generate_text_simple
from gpt_download import (
    FILE,
    SETTINGS,
    assign,
    download_and_load_gpt2,
    export_to_transformers,
    load_weights_into_gpt,
    params_from_safetensors,
)

transformers = pytest.importorskip("transformers")

SHAPES = {  # n_vocab, n_ctx, n_embd, n_head, n_layer
    "one block": (11, 5, 4, 1, 1),
    "two heads": (97, 24, 32, 2, 3),
    "many blocks": (50, 16, 12, 3, 7),
}
OF_124M = (50257, 1024, 768, 12, 12)


def settings_of(shape):
    return dict(zip(("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer"), shape, strict=True))


def config_of(settings, **changes):
    return {
        "vocab_size": settings["n_vocab"],
        "context_length": settings["n_ctx"],
        "emb_dim": settings["n_embd"],
        "n_heads": settings["n_head"],
        "n_layers": settings["n_layer"],
        "drop_rate": 0.0,
        "qkv_bias": True,
        **changes,
    }


def reference(shape, folder):
    """GPT-2 by `transformers` with every parameter random, saved in the folder."""
    n_vocab, n_ctx, n_embd, n_head, n_layer = shape
    config = transformers.GPT2Config(
        vocab_size=n_vocab, n_positions=n_ctx, n_embd=n_embd, n_head=n_head, n_layer=n_layer
    )
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    model.save_pretrained(folder)
    return model


def some_ids(settings):
    generator = torch.Generator().manual_seed(1)
    num_tokens = min(settings["n_ctx"], 20)
    return torch.randint(settings["n_vocab"], (2, num_tokens), generator=generator)


@torch.no_grad()
def largest_difference(ours, theirs, settings):
    ids = some_ids(settings)
    return (ours.eval()(ids) - theirs(ids).logits).abs().max().item()


@pytest.fixture
def theirs(tmp_path):
    return reference(SHAPES["two heads"], tmp_path)


@pytest.fixture
def serve(server, monkeypatch):
    """Let the server have a file, as the weights of the size 124M with these settings."""

    def put(path, shape, faults="good"):
        server.content = path.read_bytes()
        entry = {
            "what": "GPT-2's weights",
            "license": "none",
            "size": len(server.content),
            "sha256": hashlib.sha256(server.content).hexdigest(),
            "urls": [f"{server}/{fault}/{FILE}" for fault in faults.split()],
            "meanwhile": "load_pocket() of pocket_model.py",
        }
        monkeypatch.setattr(assets, "manifest", lambda: {f"124M/{FILE}": entry})
        monkeypatch.setitem(SETTINGS, "124M", settings_of(shape))

    return put


# From a server to the logits


@pytest.mark.parametrize("name", [*SHAPES, pytest.param("124M", marks=pytest.mark.slow)])
def test_downloaded_weights_give_the_logits_of_transformers(name, serve, tmp_path):
    shape = SHAPES.get(name, OF_124M)
    theirs = reference(shape, tmp_path / "theirs")
    serve(tmp_path / "theirs" / FILE, shape)
    settings, params = download_and_load_gpt2("124M", str(tmp_path / "ours"))
    assert settings == settings_of(shape)
    ours = GPTModel(config_of(settings))
    assert largest_difference(ours, theirs, settings) > 1e-3  # control: before
    load_weights_into_gpt(ours, params)
    assert largest_difference(ours, theirs, settings) < 1e-5


def test_the_command_line_writes_with_downloaded_weights(serve, theirs, empty_cache, tmp_path):
    shape = SHAPES["two heads"]
    serve(tmp_path / FILE, shape)
    model = gpt_generate.load_model("124M")
    ids = some_ids(settings_of(shape))
    with torch.no_grad():
        torch.testing.assert_close(model.fill(ids), theirs(ids).logits[:, -1], atol=1e-5, rtol=0)
    assert (empty_cache / "gpt2" / "124M" / FILE).exists()


@pytest.mark.parametrize(
    "faults, requests",
    [
        ("good", 1),
        ("cut", 3),
        ("cut+no-range", 2),
        ("missing good", 2),
        ("wrong good", 2),
        ("longer good", 2),
        ("slow", 1),
        ("silent good", 2),
    ],
)
def test_faults_on_the_way_change_no_logit(faults, requests, server, serve, tmp_path, monkeypatch):
    monkeypatch.setattr(assets, "SECONDS_WITHOUT_A_BYTE", 0.5)
    shape = SHAPES["two heads"]
    theirs = reference(shape, tmp_path / "theirs")
    serve(tmp_path / "theirs" / FILE, shape, faults)
    server.cuts = [60_000, 90_000] if faults == "cut" else [60_000]
    settings, params = download_and_load_gpt2("124M", tmp_path / "ours")
    ours = GPTModel(config_of(settings))
    load_weights_into_gpt(ours, params)
    assert len(server.requests) == requests  # control: the fault did happen
    assert largest_difference(ours, theirs, settings) < 1e-5


def test_the_second_call_asks_no_server(server, serve, theirs, tmp_path):
    serve(tmp_path / FILE, SHAPES["two heads"])
    download_and_load_gpt2("124M", tmp_path)
    assert len(server.requests) == 1  # control
    download_and_load_gpt2("124M", tmp_path)
    assert len(server.requests) == 1


def test_without_a_network_the_message_says_all_there_is_to_do(tmp_path, monkeypatch):
    entry = dict(assets.manifest()[f"124M/{FILE}"])
    urls = ["http://127.0.0.1:9/model.safetensors", "http://localhost:9/model.safetensors"]
    monkeypatch.setattr(assets, "manifest", lambda: {f"124M/{FILE}": {**entry, "urls": urls}})
    with pytest.raises(companion.AssetError) as error:
        download_and_load_gpt2("124M", tmp_path / "gpt2")
    message = str(error.value)
    for part in [*urls, str(tmp_path / "gpt2" / "124M" / FILE), entry["sha256"], "load_pocket()"]:
        assert part in message
    assert message.count("could not be reached") == 2
    assert not (tmp_path / "gpt2" / "124M" / FILE).exists()


def test_a_file_put_there_by_hand_is_used(serve, theirs, tmp_path):
    serve(tmp_path / FILE, SHAPES["two heads"], "missing")
    with pytest.raises(companion.AssetError, match="answered 404"):  # control
        download_and_load_gpt2("124M", tmp_path)
    (tmp_path / FILE).rename(tmp_path / "124M" / FILE)
    assert download_and_load_gpt2("124M", tmp_path)[0] == settings_of(SHAPES["two heads"])


def test_a_size_that_does_not_exist_lists_those_that_do(tmp_path):
    with pytest.raises(ValueError, match="124M, 355M, 774M, 1558M, but is '125M'"):
        download_and_load_gpt2("125M", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_weights_of_another_size_are_refused(serve, theirs, tmp_path, monkeypatch):
    serve(tmp_path / FILE, SHAPES["two heads"])
    download_and_load_gpt2("124M", tmp_path)  # control
    monkeypatch.setitem(SETTINGS, "124M", settings_of(SHAPES["many blocks"]))
    with pytest.raises(ValueError, match="n_embd is 32 there, but 12 in 124M; n_layer is 3"):
        download_and_load_gpt2("124M", tmp_path)


def test_every_size_is_on_the_manifest():
    names = [name for name, entry in assets.manifest().items() if "gpt_download.py" in str(entry)]
    assert names == [f"{size}/{FILE}" for size in SETTINGS]


# The tree


def test_the_tree_has_the_names_and_shapes_of_the_book(theirs, tmp_path):
    params = params_from_safetensors(tmp_path / FILE)
    assert sorted(params) == ["b", "blocks", "g", "wpe", "wte"]
    assert (params["wte"].shape, params["wpe"].shape) == ((97, 32), (24, 32))
    assert len(params["blocks"]) == 3
    for block in params["blocks"]:
        assert sorted(block) == ["attn", "ln_1", "ln_2", "mlp"]
        assert block["attn"]["c_attn"]["w"].shape == (32, 96)
        assert block["attn"]["c_attn"]["b"].shape == (96,)
        assert block["mlp"]["c_fc"]["w"].shape == (32, 128)
        assert block["mlp"]["c_proj"]["w"].shape == (128, 32)
        assert block["ln_2"]["g"].shape == (32,)
    last = theirs.transformer.h[2].mlp.c_proj.weight.detach()
    np.testing.assert_array_equal(params["blocks"][2]["mlp"]["c_proj"]["w"], last)


def changed(path, change):
    """Save the file anew after the change to its tensors."""
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    return path


def test_the_prefix_and_old_files_masks_make_no_difference(theirs, tmp_path):
    def like_the_old_files(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        for block in range(3):
            tensors[f"h.{block}.attn.bias"] = torch.ones(1, 1, 24, 24)
            tensors[f"h.{block}.attn.masked_bias"] = torch.tensor(-1e4)

    assert "transformer.wte.weight" in load_file(tmp_path / FILE)  # control
    before = GPTModel(config_of(settings_of(SHAPES["two heads"])))
    load_weights_into_gpt(before, params_from_safetensors(tmp_path / FILE))
    after = GPTModel(config_of(settings_of(SHAPES["two heads"])))
    changed(tmp_path / FILE, like_the_old_files)
    load_weights_into_gpt(after, params_from_safetensors(tmp_path / FILE))
    for name, tensor in after.state_dict().items():
        assert torch.equal(tensor, before.state_dict()[name])


NAME = "transformer.h.1.mlp.c_fc.weight"


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.pop(NAME), r"h.1.mlp.c_fc.weight is missing, of the shape \(32, 128\)"),
        (lambda t: t.update(x=torch.ones(7, 8)), r"x is too many, of the shape \(7, 8\)"),
        (
            lambda t: t.update({NAME: t[NAME].T.contiguous()}),
            r"h.1.mlp.c_fc.weight has the shape \(128, 32\), but must have \(32, 128\)",
        ),
        (lambda t: t.pop("transformer.wte.weight"), "wte.weight is missing"),
        (lambda t: t.update({"transformer.wpe.weight": torch.ones(3)}), r"wpe.weight has.*\(3,\)"),
        (lambda t: t.update({NAME: t[NAME].half()}), "h.1.mlp.c_fc.weight must be of type F32"),
        (
            lambda t: [t.pop(name) for name in list(t) if ".h.1." in name],
            r"h.1.attn.c_attn.bias is missing.* And \d+ more",
        ),
    ],
)
def test_a_tensor_that_does_not_belong_is_named_with_its_shapes(change, message, theirs, tmp_path):
    params_from_safetensors(tmp_path / FILE)  # control
    with pytest.raises(ValueError, match=message):
        params_from_safetensors(changed(tmp_path / FILE, change))


@pytest.mark.parametrize("size", [0, 5, 8, 1000, -1])
def test_a_truncated_file_is_told(size, theirs, tmp_path):
    content = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(content[:size])
    with pytest.raises(ValueError, match="is damaged, or no safetensors file"):
        params_from_safetensors(tmp_path / FILE)
    (tmp_path / FILE).write_bytes(content)
    assert params_from_safetensors(tmp_path / FILE)["wte"].shape == (97, 32)  # control


class Harmful:
    def __reduce__(self):
        return exec, ("raise SystemExit('the pickle was opened')",)


@pytest.mark.parametrize("is_zipped", [True, False])
def test_a_pickle_is_refused_unopened(is_zipped, tmp_path):
    path = tmp_path / FILE
    torch.save({"x": Harmful()}, path, _use_new_zipfile_serialization=is_zipped)
    with pytest.raises(SystemExit):  # control
        torch.load(io.BytesIO(path.read_bytes()), weights_only=False)
    with pytest.raises(ValueError, match="is a pickle"):
        params_from_safetensors(path)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="no-such-file"):
        params_from_safetensors(tmp_path / "no-such-file")


# Into the model


def test_assign_copies_and_refuses_another_shape():
    left, right = torch.zeros(2, 3), np.ones((2, 3), dtype=np.float32)
    new = assign(left, right)
    assert isinstance(new, torch.nn.Parameter)
    right[:] = 7
    assert new.tolist() == [[1.0] * 3] * 2
    assert left.tolist() == [[0.0] * 3] * 2
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3, 2\)"):
        assign(left, right.T)


def test_parameters_keep_their_place_and_number_type(theirs, tmp_path):
    settings = settings_of(SHAPES["two heads"])
    model = GPTModel(config_of(settings)).to(torch.bfloat16)
    before = dict(model.named_parameters())
    values = {name: parameter.detach().clone() for name, parameter in before.items()}
    load_weights_into_gpt(model, params_from_safetensors(tmp_path / FILE))
    for name, parameter in model.named_parameters():
        assert parameter is before[name]
        assert parameter.dtype == torch.bfloat16
        assert not torch.equal(parameter, values[name])  # control
    assert largest_difference(model.float(), theirs, settings) < 0.1


def test_the_head_is_a_copy_of_its_own(theirs, tmp_path):
    model = GPTModel(config_of(settings_of(SHAPES["two heads"])))
    load_weights_into_gpt(model, params_from_safetensors(tmp_path / FILE))
    assert torch.equal(model.out_head.weight, model.tok_emb.weight)
    with torch.no_grad():
        model.out_head.weight.zero_()
    assert model.tok_emb.weight.abs().sum() > 0
    np.testing.assert_array_equal(  # the file is as it was, too
        params_from_safetensors(tmp_path / FILE)["wte"], model.tok_emb.weight.detach()
    )


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"qkv_bias": False}, r"W_key.bias is too many, of the shape \(32,\).*qkv_bias True"),
        ({"n_layers": 4}, "trf_blocks.3.* is missing"),
        ({"n_layers": 2}, "trf_blocks.2.* is too many"),
        (
            {"context_length": 16},
            r"pos_emb.weight has the shape \(24, 32\), but must have \(16, 32\)",
        ),
    ],
)
def test_weights_that_do_not_fit_leave_the_model_alone(changes, message, theirs, tmp_path):
    model = GPTModel(config_of(settings_of(SHAPES["two heads"]), **changes))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_weights_into_gpt(model, params_from_safetensors(tmp_path / FILE))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


MEASURE = """
import ctypes, sys
from pathlib import Path
import psutil, torch
from gpt import GPT_CONFIG_124M, GPTModel
from gpt_download import load_weights_into_gpt, params_from_safetensors
import gpt_download

def peak():  # most bytes of physical memory so far, pages of mapped files included
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

{lead}
before = peak()
model = GPTModel({{**GPT_CONFIG_124M, "qkv_bias": True}})
load_weights_into_gpt(model, params_from_safetensors(sys.argv[1]))
own = sum(t.numel() * t.element_size() for t in model.state_dict().values())
print((peak() - before) / own)
"""


def peak_of_loading(path, lead=""):
    """Peak memory of a process that loads the file, in units of the model's own."""
    code = textwrap.dedent(MEASURE.format(lead=lead))
    run = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    )
    return float(run.stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
def test_loading_takes_hardly_more_memory_than_the_model(tmp_path):
    reference(OF_124M, tmp_path)
    assert 0.9 < peak_of_loading(tmp_path / FILE) < 1.2
    wasteful = "gpt_download.forget_pages = lambda array: None"
    assert peak_of_loading(tmp_path / FILE, wasteful) > 1.2  # control


# Back again


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_transformers_writes_the_same_text_with_an_exported_model(qkv_bias, is_tied, tmp_path):
    settings = settings_of((50257, 40, 12, 3, 2))
    torch.manual_seed(0)
    ours = GPTModel(config_of(settings, qkv_bias=qkv_bias)).eval()
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            if "emb" in name:
                parameter.mul_(0.1)  # or logits are too large to agree to 1e-5
            if "W_" in name or "norm" in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.5)
    if is_tied:
        ours.out_head.weight = ours.tok_emb.weight
    export_to_transformers(ours, tmp_path / "out")

    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "out").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert largest_difference(ours, theirs, settings) < 1e-5
    assert theirs.config.tie_word_embeddings == is_tied
    ids = tokenizer("Every effort moves you", return_tensors="pt").input_ids
    assert ids.tolist() == [[6109, 3626, 6100, 345]]
    text = theirs.generate(ids, max_new_tokens=20, do_sample=False, pad_token_id=50256)
    assert torch.equal(text, generate_text_simple(ours, ids, 20, 40))
    with torch.no_grad():
        ours.trf_blocks[1].att.W_value.weight.mul_(2)  # control
    assert largest_difference(ours, theirs, settings) > 1e-4


def test_a_tied_export_is_read_again_as_it_was(tmp_path):
    settings = settings_of((50257, 40, 12, 3, 2))
    torch.manual_seed(0)
    model, other = GPTModel(config_of(settings)), GPTModel(config_of(settings))
    model.out_head.weight = model.tok_emb.weight
    assert not torch.equal(model.tok_emb.weight, other.tok_emb.weight)  # control
    export_to_transformers(model, tmp_path)
    load_weights_into_gpt(other, params_from_safetensors(tmp_path / FILE))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])


def test_a_model_with_another_vocabulary_is_not_exported(tmp_path):
    model = GPTModel(config_of(settings_of(SHAPES["two heads"])))
    with pytest.raises(ValueError, match=r"97 tokens.*50,257"):
        export_to_transformers(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
