"""The shape tracer: its table word for word, and that it leaves a model as it was."""

import pytest
import torch

from gpt import GPT_CONFIG_124M, GPTModel
from multihead_attention import MultiHeadAttentionWrapper
from shape_tracer import Call, ShapeTrace, expandable, trace_shapes

TINY = {
    "vocab_size": 50,
    "context_length": 8,
    "emb_dim": 12,
    "n_heads": 3,
    "n_layers": 1,
    "drop_rate": 0.1,
    "qkv_bias": False,
}
EXPECTED = """\
module                      kind                input         output        parameters
(the model)                 GPTModel            (2, 4)        (2, 4, 50)         3,168
tok_emb                     Embedding           (2, 4)        (2, 4, 12)           600
pos_emb                     Embedding           (4,)          (4, 12)               96
drop_emb                    Dropout             (2, 4, 12)    (2, 4, 12)             0
trf_blocks                  Sequential          (2, 4, 12)    (2, 4, 12)         1,848
trf_blocks.0                TransformerBlock    (2, 4, 12)    (2, 4, 12)         1,848
trf_blocks.0.norm1          LayerNorm           (2, 4, 12)    (2, 4, 12)            24
trf_blocks.0.att            MultiHeadAttention  (2, 4, 12)    (2, 4, 12)           588
trf_blocks.0.att.W_query    Linear              (2, 4, 12)    (2, 4, 12)           144
trf_blocks.0.att.W_key      Linear              (2, 4, 12)    (2, 4, 12)           144
trf_blocks.0.att.W_value    Linear              (2, 4, 12)    (2, 4, 12)           144
trf_blocks.0.att.dropout    Dropout             (2, 3, 4, 4)  (2, 3, 4, 4)           0
trf_blocks.0.att.out_proj   Linear              (2, 4, 12)    (2, 4, 12)           156
trf_blocks.0.drop_shortcut  Dropout             (2, 4, 12)    (2, 4, 12)             0
trf_blocks.0.norm2          LayerNorm           (2, 4, 12)    (2, 4, 12)            24
trf_blocks.0.ff             FeedForward         (2, 4, 12)    (2, 4, 12)         1,212
trf_blocks.0.ff.layers      Sequential          (2, 4, 12)    (2, 4, 12)         1,212
trf_blocks.0.ff.layers.0    Linear              (2, 4, 12)    (2, 4, 48)           624
trf_blocks.0.ff.layers.1    GELU                (2, 4, 48)    (2, 4, 48)             0
trf_blocks.0.ff.layers.2    Linear              (2, 4, 48)    (2, 4, 12)           588
trf_blocks.0.drop_shortcut  Dropout             (2, 4, 12)    (2, 4, 12)             0
final_norm                  LayerNorm           (2, 4, 12)    (2, 4, 12)            24
out_head                    Linear              (2, 4, 12)    (2, 4, 50)           600"""


@pytest.fixture
def model():
    torch.manual_seed(0)
    return GPTModel(TINY)


@pytest.fixture
def ids():
    return torch.arange(8).reshape(2, 4)


@pytest.fixture
def trace(model, ids):
    return trace_shapes(model, ids)


def names(trace):
    return [call.name for call in trace.calls]


def has_hooks(model):
    return any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


# The table


def test_the_walk_through_a_tiny_gpt(trace, model, ids):
    assert str(trace) == EXPECTED
    assert str(trace_shapes(model, ids[:1])) != EXPECTED  # control


def test_the_last_shape_is_that_of_the_models_output(trace, model, ids):
    assert trace.calls[0].output == (tuple(model(ids).shape),)


def test_the_outermost_modules_hold_all_parameters(trace, model):
    total = sum(parameter.numel() for parameter in model.parameters())
    outermost = [call.parameters for call in trace.to_depth(1).calls]
    assert outermost[0] == sum(outermost[1:]) == total


def test_to_depth_leaves_out_what_stands_further_inside(trace):
    assert names(trace.to_depth(0)) == [""]
    assert names(trace.to_depth(1)) == [
        *("", "tok_emb", "pos_emb", "drop_emb", "trf_blocks", "final_norm", "out_head")
    ]
    assert names(trace.to_depth(99)) == names(trace)


def test_part_shows_one_module_and_what_it_contains(trace):
    part = trace.part("trf_blocks.0.ff")
    assert names(part)[0] == "trf_blocks.0.ff"
    assert len(part.calls) == 5
    assert names(part.to_depth(0)) == ["trf_blocks.0.ff"]
    twice = trace.part("trf_blocks.0.drop_shortcut")
    assert len(twice.calls) == 2


def test_part_takes_whole_names_only():
    trace = ShapeTrace([Call("", "M", 0), Call("b.1", "A", 1), Call("b.10", "B", 1)])
    assert names(trace.part("b.1")) == ["b.1"]


def test_part_says_which_modules_there_are(trace):
    with pytest.raises(KeyError, match=r"'blocks' was called.*tok_emb, pos_emb.*out_head"):
        trace.part("blocks")


def test_other_models_and_several_inputs_and_outputs_are_traced():
    heads = MultiHeadAttentionWrapper(3, 2, 6, 0.0, num_heads=2)
    assert trace_shapes(heads, torch.zeros(1, 6, 3)).part("heads.1.W_key").calls[0].output == (
        (1, 6, 2),
    )
    attention = torch.nn.MultiheadAttention(4, 2)
    call = trace_shapes(attention, *[torch.zeros(2, 3, 4)] * 3).calls[0]
    assert call.input == ((2, 3, 4),) * 3
    assert call.output == ((2, 3, 4), (3, 2, 2))


def test_tensors_given_by_name_are_seen():
    class Caller(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Linear(3, 2)

        def forward(self, x):
            return {"scores": [self.inner(input=x)]}

    trace = trace_shapes(Caller(), torch.zeros(5, 3))
    assert trace.part("inner").calls[0].input == ((5, 3),)
    assert trace.calls[0].output == ((5, 2),)


def test_a_model_without_memory_is_traced():
    with torch.device("meta"):
        model = GPTModel(GPT_CONFIG_124M)
        trace = trace_shapes(model, torch.zeros(1, 1024, dtype=torch.long))
    assert trace.calls[0].parameters == 163_009_536
    assert trace.calls[0].output == ((1, 1024, 50257),)
    assert len(trace.calls) == 6 + 12 * 16 + 1


def test_the_notebook_table_has_the_cells_of_the_text(trace):
    page = trace._repr_html_()
    assert page.count("<tr>") == len(EXPECTED.splitlines())
    for call in trace.calls:
        assert all(f">{text}</td>" in page for text in call.cells())
    strange = ShapeTrace([Call("<b>", "Kind", 0)])
    assert "<b>" not in strange._repr_html_() and "&lt;b&gt;" in strange._repr_html_()


# The model is left as it was


def test_nothing_of_the_model_is_changed(model, ids):
    model.trf_blocks[0].att.eval()  # one part in another mode than the rest
    modes = [module.training for module in model.modules()]
    assert len(set(modes)) == 2
    random_state = torch.get_rng_state()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    trace_shapes(model, ids)

    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not has_hooks(model)
    model(ids)
    assert not torch.equal(torch.get_rng_state(), random_state)  # control: dropout draws


def test_hooks_of_the_reader_stay(model, ids):
    seen = []
    model.out_head.register_forward_hook(lambda *_: seen.append(1))
    trace_shapes(model, ids)
    model(ids)
    assert len(seen) == 2
    assert has_hooks(model)  # control of `has_hooks`


class Breaks(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fine = torch.nn.Linear(3, 4)
        self.broken = torch.nn.Linear(5, 2)  # does not take four numbers

    def forward(self, x):
        return self.broken(self.fine(x))


def test_a_model_that_raises_is_named_at_the_place_and_loses_its_hooks():
    model = Breaks()
    with pytest.raises(RuntimeError, match=r"^broken \(Linear\), given \(2, 4\), raised Runtime"):
        trace_shapes(model, torch.zeros(2, 3))
    assert not has_hooks(model)
    assert model.training and model.broken.training
    model.broken = torch.nn.Linear(4, 2)
    assert len(trace_shapes(model, torch.zeros(2, 3)).calls) == 3  # control


def test_an_error_of_the_whole_model_is_passed_on_with_its_text(model):
    with pytest.raises(RuntimeError, match=r"^The model \(GPTModel\), given \(1, 9\), raised Val"):
        trace_shapes(model, torch.zeros(1, 9, dtype=torch.long))
    assert not has_hooks(model)


def test_an_error_that_the_model_catches_does_not_shift_the_table():
    class Forgives(Breaks):
        def forward(self, x):
            try:
                return super().forward(x)
            except RuntimeError:
                return self.fine(x)

    trace = trace_shapes(Forgives(), torch.zeros(2, 3))
    assert [(call.name, call.output) for call in trace.calls] == [
        ("", ((2, 4),)),
        ("fine", ((2, 4),)),
        ("broken", ()),
        ("fine", ((2, 4),)),
    ]


# The box that opens and closes


def texts(box):
    """What the rows of the box say."""
    return [row.children[1].value for row in box.children]


def button_of(box, name):
    return next(row.children[0] for row in box.children if f">{name} " in row.children[1].value)


def test_the_box_starts_with_the_outermost_modules_and_opens_by_a_click(trace):
    pytest.importorskip("ipywidgets")
    box = expandable(trace)
    assert len(texts(box)) == 1 + len(trace.to_depth(1).calls)
    button_of(box, "trf_blocks").click()
    button_of(box, "trf_blocks.0").click()
    assert any(">trf_blocks.0.norm1 " in text for text in texts(box))
    assert not any("W_query" in text for text in texts(box))

    button_of(box, "trf_blocks").click()
    assert len(texts(box)) == 1 + len(trace.to_depth(1).calls)
    button_of(box, "trf_blocks").click()  # what was open inside is open again
    assert any(">trf_blocks.0.norm1 " in text for text in texts(box))


def test_only_a_call_with_inner_calls_has_a_button(trace):
    pytest.importorskip("ipywidgets")
    box = expandable(trace)
    assert button_of(box, "trf_blocks").layout.visibility == "visible"
    assert button_of(box, "tok_emb").layout.visibility == "hidden"
