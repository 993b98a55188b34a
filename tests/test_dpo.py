"""DPO: log-probabilities, the loss, training, bad input; slow: the pocket model learns kindness."""

import math
from collections import defaultdict
from types import SimpleNamespace

import pytest
import tiktoken
import torch
import torch.nn.functional as F

import companion
import dpo
from evaluate_pocket import nats_per_token
from gpt import GPTModel
from gpt_train import load_checkpoint
from pocket_model import POCKET_CONFIG, load_pocket

companion.prepare_tokenizer()
TOKENIZER = tiktoken.get_encoding("gpt2")
TOY = {
    "vocab_size": 50257,
    "context_length": 24,
    "emb_dim": 8,
    "n_heads": 2,
    "n_layers": 1,
    "drop_rate": 0.0,
    "qkv_bias": False,
}
PAIRS = [
    {"prompt": "Tom said,", "chosen": " thank you!", "rejected": " go"},
    {"prompt": "The old cat asked the dog and said,", "chosen": " yes", "rejected": " no, not now"},
    {"prompt": "She", "chosen": " may I?<|endoftext|>", "rejected": " I want that."},
    {"prompt": "One more", "chosen": " please", "rejected": " never, ever"},
]


def toy_model(seed=0):
    torch.manual_seed(seed)
    return GPTModel(TOY).eval()


def toy_dataset(pairs=PAIRS):
    return dpo.PreferenceDataset(pairs, TOKENIZER, TOY["context_length"])


# Data


def test_both_answers_follow_the_same_prompt_and_the_end_token_is_one_id():
    prompt, chosen, rejected = toy_dataset()[2]
    assert prompt == TOKENIZER.encode("She")
    assert TOKENIZER.decode(rejected) == " I want that."
    assert chosen[-1] == 50256


def test_a_batch_has_the_chosen_answers_first_and_marks_answers_only():
    items = list(toy_dataset())
    ids, is_answer = dpo.collate_pairs(items)
    assert (
        ids.shape == is_answer.shape == (8, max(len(p) + max(len(c), len(r)) for p, c, r in items))
    )
    for row in range(8):
        prompt, *answers = items[row % 4]
        answer = answers[row // 4]
        assert ids[row, : len(prompt) + len(answer)].tolist() == prompt + answer
        assert ids[row][is_answer[row]].tolist() == answer
        assert (ids[row, len(prompt) + len(answer) :] == dpo.PAD_TOKEN_ID).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rejected": " thank you! "}, r"Pair 1: chosen and rejected are both ' thank you!'"),
        ({"rejected": ""}, r"Pair 1: 'rejected' must be a text, but is ''"),
        ({"chosen": " \n"}, r"Pair 1: 'chosen' must be a text, but is ' \\n'"),
        ({"prompt": ""}, r"Pair 1: 'prompt' must be a text, but is ''"),
        ({"chosen": None}, r"Pair 1: 'chosen' must be a text, but is None"),
        ({"chosen": " a" * 30}, r"Pair 1 has 33 tokens.* the context holds 24"),
    ],
)
def test_pairs_that_teach_nothing_or_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        toy_dataset([PAIRS[1], {**PAIRS[0], **change}])


def test_missing_keys_and_no_pairs_are_told():
    with pytest.raises(ValueError, match=r"Pair 0 has no 'chosen' and no 'rejected', only"):
        toy_dataset([{"prompt": "Hi"}])
    with pytest.raises(ValueError, match="no preference pairs"):
        toy_dataset([])


def test_a_pair_that_just_fits_is_taken():
    pair = {"prompt": "a", "chosen": " a" * 23, "rejected": " b"}
    ids, is_answer = dpo.collate_pairs([toy_dataset([pair])[0]])
    assert dpo.sequence_logprobs(toy_model(), ids, is_answer).isfinite().all()
    with pytest.raises(ValueError, match="25 tokens"):
        toy_dataset([{**pair, "chosen": " a" * 24}])


# Log-probabilities and the loss


def logprob_by_hand(model, prompt, answer):
    """One row at a time, without padding, with logits everywhere."""
    ids = prompt + answer
    logprobs = model(torch.tensor([ids]))[0].log_softmax(dim=-1)
    return sum(logprobs[place - 1, ids[place]] for place in range(len(prompt), len(ids)))


def test_log_probabilities_are_those_of_each_answer_by_itself():
    model, items = toy_model(), list(toy_dataset())
    ids, is_answer = dpo.collate_pairs(items)
    rows = [(p, c) for p, c, _ in items] + [(p, r) for p, _, r in items]
    expected = torch.stack([logprob_by_hand(model, *row) for row in rows])
    torch.testing.assert_close(dpo.sequence_logprobs(model, ids, is_answer), expected)
    # Control: with the prompt counted as well, they are others.
    assert not torch.allclose(dpo.sequence_logprobs(model, ids, ids != 50256), expected)


def test_the_hook_is_gone_afterwards_even_if_the_model_fails():
    model = toy_model()
    ids, is_answer = dpo.collate_pairs(list(toy_dataset()))
    dpo.answer_logits(model, ids, is_answer)
    with pytest.raises(ValueError):
        dpo.answer_logits(model, ids.repeat(1, 9), is_answer.repeat(1, 9))
    assert model(ids).shape == (*ids.shape, TOY["vocab_size"])


def test_the_loss_is_that_of_a_calculation_by_hand():
    # chosen: -10 by the policy, -12 by the reference; rejected: -11 and -10.
    margins = dpo.reward_margins(torch.tensor([-10.0, -11.0]), torch.tensor([-12.0, -10.0]), 0.5)
    assert margins.item() == pytest.approx(0.5 * ((-10 + 12) - (-11 + 10)))  # 1.5
    assert dpo.dpo_loss(margins).item() == pytest.approx(math.log(1 + math.exp(-1.5)))
    assert dpo.dpo_loss(torch.zeros(3)).item() == pytest.approx(math.log(2))
    swapped = dpo.reward_margins(torch.tensor([-11.0, -10.0]), torch.tensor([-10.0, -12.0]), 0.5)
    assert swapped.item() == pytest.approx(-1.5)


def test_chosen_and_rejected_answers_are_pulled_apart_with_the_same_force():
    logprobs = torch.tensor([-9.0, -7.0, -8.0, -6.0], requires_grad=True)
    reference = torch.tensor([-9.0, -9.0, -9.0, -5.0])
    margins = dpo.reward_margins(logprobs, reference, beta=0.1)
    dpo.dpo_loss(margins).backward()
    force = 0.1 * torch.sigmoid(-margins.detach()) / 2  # the larger, the more wrong the pair is
    torch.testing.assert_close(logprobs.grad, torch.cat([-force, force]))


def test_settings_and_shapes_that_mean_nothing_are_refused():
    four = torch.zeros(4)
    with pytest.raises(ValueError, match=r"beta must be above 0, but is 0"):
        dpo.reward_margins(four, four, 0)
    with pytest.raises(ValueError, match=r"even length .* \(\(3,\), \(3,\)\)"):
        dpo.reward_margins(four[:3], four[:3], 0.1)
    with pytest.raises(ValueError, match=r"\(\(4,\), \(2,\)\)"):
        dpo.reward_margins(four, four[:2], 0.1)


def test_the_loss_is_trls():
    """Of release 1.16, whose trainer computes the loss in one private method."""
    trl = pytest.importorskip("trl", reason="trl is not installed: pip install trl")
    model, reference = toy_model(), toy_model(seed=1)
    ids, is_answer = dpo.collate_pairs(list(toy_dataset()))
    with torch.no_grad():
        ours, theirs = (dpo.sequence_logprobs(m, ids, is_answer) for m in (model, reference))

    def fake_model(input_ids, labels, **_):
        is_target = labels[:, 1:] != -100
        logprobs = -F.cross_entropy(model(input_ids[:, :-1]).mT, input_ids[:, 1:], reduction="none")
        same = torch.zeros_like(logprobs)
        return SimpleNamespace(
            log_probs=logprobs * is_target, entropy=same, mean_logits=same, is_top1=is_target
        )

    metrics = defaultdict(lambda: defaultdict(list))
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=False),
        accelerator=SimpleNamespace(
            device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x
        ),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=["sigmoid"],
        loss_weights=[1.0],
        label_smoothing=0.0,
        beta=0.3,
        use_weighting=False,
        _total_train_tokens=0,
        _tp_size=1,
        _metrics=metrics,
    )
    inputs = {"input_ids": ids, "attention_mask": ids != 50256, "completion_mask": is_answer.long()}
    inputs |= dict(zip(("ref_chosen_logps", "ref_rejected_logps"), theirs.chunk(2), strict=True))
    with torch.no_grad():
        loss = trl.DPOTrainer._compute_loss(trainer, fake_model, inputs, False)
    margins = dpo.reward_margins(ours, theirs, beta=0.3)
    torch.testing.assert_close(loss, dpo.dpo_loss(margins))
    assert metrics["eval"]["rewards/margins"][0] == pytest.approx(margins.mean().item(), abs=1e-5)


# Measurements and training


def test_a_copy_measures_as_no_change_at_all():
    policy = toy_model()
    measured = dpo.evaluate_dpo(policy, dpo.frozen_copy(policy), toy_dataset(), beta=0.1)
    assert measured["loss"] == pytest.approx(math.log(2))
    assert measured["margin"] == 0 and measured["reward_accuracy"] == 0.5
    assert measured["divergence"] == pytest.approx(0, abs=1e-6)


def test_the_divergence_is_torchs_and_the_batch_size_does_not_matter():
    policy, reference, dataset = toy_model(), toy_model(seed=1), toy_dataset()
    measured = dpo.evaluate_dpo(policy, reference, dataset, 0.1, batch_size=3)["divergence"]
    ids, is_answer = dpo.collate_pairs(list(dataset))
    ours, theirs = (
        torch.distributions.Categorical(logits=dpo.answer_logits(model, ids, is_answer))
        for model in (policy, reference)
    )
    expected = torch.distributions.kl_divergence(ours, theirs).mean().item()
    assert measured == pytest.approx(expected, rel=1e-4) and measured > 0
    torch.testing.assert_close(
        dpo.all_logprobs(policy, dataset, batch_size=3), dpo.all_logprobs(policy, dataset)
    )


def test_training_raises_the_margins_and_leaves_the_reference_alone():
    policy = toy_model()
    reference = dpo.frozen_copy(policy)
    weights = [parameter.clone() for parameter in reference.parameters()]
    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.01)
    torch.manual_seed(0)
    losses = list(dpo.train_dpo(policy, reference, toy_dataset(), optimizer, 0.1, 10, batch_size=3))
    assert len(losses) == 20 and losses[0] == pytest.approx(math.log(2), abs=1e-4)
    measured = dpo.evaluate_dpo(policy, reference, toy_dataset(), beta=0.1)
    assert measured["loss"] < 0.5 and measured["reward_accuracy"] == 1
    assert all(map(torch.equal, weights, reference.parameters()))


def test_a_reference_that_could_move_is_refused():
    policy = toy_model()
    optimizer = torch.optim.AdamW(policy.parameters())
    for reference in (policy, toy_model()):
        with pytest.raises(ValueError, match="The reference shares weights with the policy"):
            next(dpo.train_dpo(policy, reference, toy_dataset(), optimizer))
    next(dpo.train_dpo(policy, dpo.frozen_copy(policy), toy_dataset(), optimizer))  # control


def test_a_loss_that_is_no_number_stops_the_training():
    policy = toy_model()
    reference = dpo.frozen_copy(policy)
    with torch.no_grad():
        policy.out_head.weight.fill_(torch.nan)
    optimizer = torch.optim.AdamW(policy.parameters())
    with pytest.raises(ValueError, match="The loss is nan"):
        next(dpo.train_dpo(policy, reference, toy_dataset(), optimizer))


# The command line


@pytest.fixture
def toy_run(monkeypatch):
    """Let `main` tune the toy model on toy pairs; the calls of the training."""
    calls = []

    def tune(policy, training):
        calls.append(len(training))
        return dpo.frozen_copy(policy)

    monkeypatch.setattr(dpo, "tune_pocket", tune)
    monkeypatch.setattr(dpo, "load_pocket", toy_model)
    monkeypatch.setattr(dpo, "load_preferences", lambda: (PAIRS[:3], PAIRS))
    monkeypatch.setattr(dpo, "POCKET_CONFIG", TOY)
    return calls


def test_the_tuned_model_is_saved_into_a_new_folder(toy_run, tmp_path, capsys):
    path = tmp_path / "new" / "kind.pth"
    assert dpo.main(["--path", str(path)]) == 0
    assert toy_run == [3]
    assert "On 4 held-out pairs" in capsys.readouterr().out
    saved, model = load_checkpoint(path, TOY)["model_state_dict"], toy_model().state_dict()
    assert all(torch.equal(saved[name], model[name]) for name in model)


def test_a_folder_that_cannot_be_is_reported_before_the_training(toy_run, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert dpo.main(["--path", str(tmp_path / "file" / "kind.pth")]) == 2
    assert capsys.readouterr().err.startswith("dpo.py: ")
    assert toy_run == []


# The pocket model


def perplexity(model):
    text = companion.asset("the-next-word.txt").read_text(encoding="utf-8")
    return math.exp(nats_per_token(model, torch.tensor(TOKENIZER.encode(text))[:2561]))


@pytest.fixture(scope="module")
def datasets():
    """Training and held-out pairs."""
    context_length = POCKET_CONFIG["context_length"]
    return [
        dpo.PreferenceDataset(pairs, TOKENIZER, context_length) for pairs in dpo.load_preferences()
    ]


@pytest.mark.slow
@pytest.mark.training
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_pocket_model_learns_to_prefer_kind_replies(seed, datasets):
    training, held_out = datasets
    torch.manual_seed(seed)
    policy = load_pocket()
    reference = dpo.tune_pocket(policy, training)
    before, after = (dpo.evaluate_dpo(m, reference, held_out, 0.1) for m in (reference, policy))
    assert before["reward_accuracy"] == pytest.approx(0.5, abs=0.02)  # control: untuned
    assert after["reward_accuracy"] >= 0.8
    assert after["accuracy"] > before["accuracy"]
    assert after["margin"] > 0 and after["divergence"] > 0
    assert perplexity(policy) == pytest.approx(perplexity(reference), rel=0.1)


@pytest.mark.slow
@pytest.mark.training
def test_pairs_turned_around_at_random_teach_nothing(datasets):
    """Control: what is learned comes from which answer is called the chosen one."""
    pairs = dpo.load_preferences()[0]
    torch.manual_seed(1)
    for number in torch.randperm(len(pairs))[: len(pairs) // 2].tolist():
        pair = pairs[number]
        pairs[number] = {**pair, "chosen": pair["rejected"], "rejected": pair["chosen"]}
    turned = dpo.PreferenceDataset(pairs, TOKENIZER, POCKET_CONFIG["context_length"])
    policy = load_pocket()
    reference = dpo.tune_pocket(policy, turned)
    assert dpo.evaluate_dpo(policy, reference, datasets[1], 0.1)["reward_accuracy"] <= 0.7
