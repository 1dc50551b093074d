"""The chunked loss is plain cross-entropy: value and gradients, whatever the head and the chunk."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from magdi_ray.config.distil import LoraTuning
from magdi_ray.distill import head as head_module
from magdi_ray.distill.head import LogitShape, TokenLoss, linear_loss, logit_shape, module_loss, token_losses
from magdi_ray.distill.student import add_lora
from magdi_ray.errors import ConfigError

SHAPES = {"plain": LogitShape(), "scaled": LogitShape(0.3), "capped": LogitShape(1.0, 2.0), "both": LogitShape(0.7, 1.5)}


def tensors(tokens: int, *, seed: int = 0) -> tuple[Tensor, nn.Linear, Tensor, Tensor]:
    """Hidden states, a head with a bias, targets and how often each counts."""
    torch.manual_seed(seed)
    head, hidden_MH = nn.Linear(16, 50), torch.randn(tokens, 16, requires_grad=True)
    return hidden_MH, head, torch.randint(50, (tokens,)), torch.randint(1, 4, (tokens,)).float()


def gradients(loss: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    return (loss.detach(), *torch.autograd.grad(3.0 * loss, of))


@pytest.mark.parametrize("tokens", [1, 7, 512, 1300])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("through_module", [False, True])
def test_the_chunked_loss_and_its_gradients_are_those_of_plain_cross_entropy(
    tokens: int, shape: str, through_module: bool
) -> None:
    hidden_MH, head, targets_M, times_M = tensors(tokens)
    plain = (F.cross_entropy(SHAPES[shape](head(hidden_MH)), targets_M, reduction="none") * times_M).sum()
    ours = (
        module_loss(head, SHAPES[shape], hidden_MH, targets_M, times_M)
        if through_module
        else linear_loss(hidden_MH, head.weight, head.bias, targets_M, times_M, SHAPES[shape])
    )
    of = (hidden_MH, head.weight, head.bias)
    for found, expected in zip(gradients(ours, *of), gradients(plain, *of), strict=True):
        assert float((found - expected).norm()) <= 1e-5 * float(expected.norm())


@pytest.mark.parametrize("tokens", [0, 1, 512, 1300])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("trained", [False, True])
def test_each_tokens_own_loss_and_gradients_are_those_of_plain_cross_entropy(tokens: int, shape: str, trained: bool) -> None:
    hidden_MH, head, targets_M, times_M = tensors(tokens)
    head.requires_grad_(trained)
    losses_M = token_losses(head, SHAPES[shape], hidden_MH, targets_M)
    plain_M = F.cross_entropy(SHAPES[shape](head(hidden_MH)), targets_M, reduction="none")
    torch.testing.assert_close(losses_M, plain_M, atol=1e-5, rtol=1e-5)
    of = (hidden_MH, head.weight, head.bias) if trained else (hidden_MH,)
    found, expected = (gradients((each_M * times_M).sum(), *of) for each_M in (losses_M, plain_M))
    for mine, theirs in zip(found, expected, strict=True):
        assert float((mine - theirs).norm()) <= 1e-5 * float(theirs.norm())


@pytest.mark.parametrize("trained", [False, True])
def test_no_more_logits_than_a_chunk_are_made_for_each_tokens_own_loss(monkeypatch: pytest.MonkeyPatch, trained: bool) -> None:
    seen: list[int] = []
    hidden_MH, head, targets_M, _ = tensors(1300)
    head.requires_grad_(trained)
    plain = F.linear
    monkeypatch.setattr(F, "linear", lambda rows, *rest: (seen.append(len(rows)), plain(rows, *rest))[1])
    token_losses(head, LogitShape(), hidden_MH, targets_M).sum().backward()
    assert sorted(set(seen)) == [276, 512]


def test_without_gradients_a_trained_heads_loss_takes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden_MH, head, targets_M, _ = tensors(9)
    kept: list[Any] = []
    monkeypatch.setattr(torch.autograd.function.FunctionCtx, "save_for_backward", lambda self, *of: kept.extend(of))
    with torch.no_grad():
        linear_loss(hidden_MH.detach(), head.weight, head.bias, targets_M)
    assert kept == [None, None, None]


def test_a_frozen_head_gets_no_gradient_and_its_input_does() -> None:
    hidden_MH, head, targets_M, _ = tensors(9)
    head.requires_grad_(False)
    linear_loss(hidden_MH, head.weight, head.bias, targets_M).backward()
    assert head.weight.grad is None
    assert float(hidden_MH.grad.abs().sum()) > 0  # type: ignore[union-attr]


def test_no_more_logits_than_a_chunk_are_ever_made(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    plain = head_module._chunk
    monkeypatch.setattr(head_module, "_chunk", lambda logits, *rest: (seen.append(len(logits)), plain(logits, *rest))[1])
    hidden_MH, head, targets_M, _ = tensors(1300)
    linear_loss(hidden_MH, head.weight, head.bias, targets_M).backward()
    assert seen == [512, 512, 276]


@pytest.mark.parametrize("through_module", [False, True])
def test_no_token_gives_a_zero_that_still_reaches_the_head(through_module: bool) -> None:
    hidden_MH, head, targets_M, _ = tensors(0)
    ours = (
        module_loss(head, LogitShape(), hidden_MH, targets_M, None)
        if through_module
        else linear_loss(hidden_MH, head.weight, head.bias, targets_M)
    )
    ours.backward()
    assert float(ours) == 0.0
    assert not head.weight.grad.any()  # type: ignore[union-attr]


def test_a_models_own_soft_cap_is_in_the_loss() -> None:
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        head_dim=16, final_logit_softcapping=0.5, query_pre_attn_scalar=16,
    )  # fmt: skip
    model, ids = Gemma2ForCausalLM._from_config(config, attn_implementation="eager").eval(), torch.arange(1, 9)[None]
    hidden_TH = model.get_decoder()(ids).last_hidden_state[0]
    plain = F.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="sum")
    assert float(TokenLoss(model)(hidden_TH[:-1], ids[0, 1:])) == pytest.approx(float(plain), rel=1e-6)


def tiny(*, tied: bool) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    config.tie_word_embeddings = tied
    return LlamaForCausalLM(config)


def test_a_tied_heads_gradient_reaches_the_embeddings() -> None:
    found = []
    for ours in (True, False):
        model, ids = tiny(tied=True), torch.arange(1, 20)[None]
        hidden_TH = model.get_decoder()(ids).last_hidden_state[0, :-1]
        loss = TokenLoss(model)(hidden_TH, ids[0, 1:]) if ours else F.cross_entropy(model.lm_head(hidden_TH), ids[0, 1:]) * 18
        loss.backward()
        found.append(model.get_input_embeddings().weight.grad)
    torch.testing.assert_close(*found, atol=1e-6, rtol=1e-5)


def test_an_adapter_on_the_head_is_trained() -> None:
    model = add_lora(tiny(tied=False), LoraTuning(type="lora", r=4, dropout=0.0, target_modules=("lm_head",)))
    hidden_MH, _, targets_M, _ = tensors(600)
    TokenLoss(model)(hidden_MH, targets_M).backward()
    names = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert names == {"base_model.model.lm_head.lora_B.default.weight"}  # A follows once B is no longer zero


def test_the_borrowed_head_is_not_saved_twice() -> None:
    assert TokenLoss(tiny(tied=False)).state_dict() == {}


@pytest.mark.parametrize("setting", [{"lm_head_multiplier": 2.0}, {"logits_soft_cap": 30.0}, {"model_type": "hyperclovax"}])
def test_a_model_whose_logits_are_made_in_another_way_is_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="cannot be taught"):
        logit_shape(SimpleNamespace(**{"model_type": "llama", **setting}))
