"""A packed row is each node alone: hidden states, loss and gradients, for every architecture that is not refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconH1Config,
    Gemma2Config,
    Gemma3TextConfig,
    Llama4TextConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from magdi_ray.config.distil import LoraTuning
from magdi_ray.config.recipes import resolve_recipe
from magdi_ray.distill.attention import flex_mod, obstacle, prepare_attention, unused_mask
from magdi_ray.distill.batch import GraphBatch, collate
from magdi_ray.distill.packing import Layout, Span, lay_out, positions
from magdi_ray.distill.plan import forwarded, measure
from magdi_ray.distill.student import DistillModel, add_lora, decoder_of
from magdi_ray.distill.tokens import GraphTokens, NodeTokens
from magdi_ray.errors import ConfigError, GraphError

VOCAB = 97
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
HEADS = {"head_dim": 8, "query_pre_attn_scalar": 8}
SLIDING = ["sliding_attention", "full_attention"]
CONFIGS: dict[str, Callable[[], Any]] = {
    "llama, grouped queries": lambda: LlamaConfig(**SHAPE),
    "mistral, window 6": lambda: MistralConfig(**SHAPE, sliding_window=6),
    "mistral, window 11": lambda: MistralConfig(**SHAPE, sliding_window=11),
    "qwen2": lambda: Qwen2Config(**SHAPE),
    "qwen2, one windowed layer": lambda: Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=6, layer_types=SLIDING),
    "qwen3": lambda: Qwen3Config(**SHAPE, head_dim=8),
    "gemma2, soft caps and window": lambda: Gemma2Config(
        **SHAPE, **HEADS, sliding_window=6, layer_types=SLIDING, attn_logit_softcapping=0.5, final_logit_softcapping=2.0
    ),
    "gemma3, window": lambda: Gemma3TextConfig(**SHAPE, **HEADS, sliding_window=6, layer_types=SLIDING),
}
LLAMA = "llama, grouped queries"


def graph_of(prompt: int, replies: list[int], correct: list[int], *, seed: int = 0) -> GraphTokens:
    """Random tokens of the given lengths."""
    generator = torch.Generator().manual_seed(seed)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(1, VOCAB, (length,), generator=generator).tolist())

    nodes = tuple(NodeTokens(ids(n), bool(c), f"q{seed}/{i}") for i, (n, c) in enumerate(zip(replies, correct, strict=True)))
    return GraphTokens(f"q{seed}", ids(prompt), nodes, tuple((i, i + 1) for i in range(len(nodes) - 1)))


GRAPHS = (
    graph_of(9, [7, 1, 12, 5], [1, 1, 0, 1], seed=1),
    graph_of(4, [3], [1], seed=2),
    graph_of(14, [6, 10], [0, 0], seed=3),
)


def student_of(name: str, *, lora: bool = False, checkpointing: bool = False, attention: str | None = "eager") -> Any:
    """A tiny student with random weights, the same for the same name."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name](), dtype=torch.float32, attn_implementation=attention)
    if checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    if not lora:
        return model.train()
    model = add_lora(model, LoraTuning(type="lora", r=4, dropout=0.0))
    with torch.no_grad():
        for weights in (p for name, p in model.named_parameters() if "lora_B" in name):
            weights.normal_(0.0, 0.1)
    return model.train()


class Result(NamedTuple):
    """What must not depend on how nodes are laid out."""

    loss: Tensor
    hidden: list[Tensor]
    """[T, H] a node."""
    gradients: dict[str, Tensor]


def embedding_loss(embedding_H: Tensor, number: int) -> Tensor:
    """Something that reaches the student through a node's embedding, as contrast and interaction do."""
    return embedding_H @ torch.randn(len(embedding_H), generator=torch.Generator().manual_seed(number))


def finish(student: Any, loss: Tensor, hidden: list[Tensor]) -> Result:
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}
    return Result(loss.detach(), [h.detach() for h in hidden], gradients)


def alone(name: str, *, on_prompt: bool = False, lora: bool = False, graphs: tuple[GraphTokens, ...] = GRAPHS) -> Result:
    """Each node in a forward pass of its own through the model as transformers has it; every formula written out."""
    student = student_of(name, lora=lora)
    total, hidden = torch.zeros(()), []
    for graph in graphs:
        for node in graph.nodes:
            ids = torch.tensor([(*graph.prompt_ids, *node.reply_ids)])
            output = student(input_ids=ids, output_hidden_states=True)
            hidden.append(output.hidden_states[-1][0])
            first = 1 if on_prompt else len(graph.prompt_ids)
            if node.correct:
                total = total + F.cross_entropy(output.logits[0, first - 1 : -1], ids[0, first:], reduction="sum")
            weights_T = torch.arange(1, ids.shape[1] + 1, dtype=torch.float32)
            embedding_H = (weights_T[:, None] * hidden[-1]).sum(0) / weights_T.sum()
            total = total + embedding_loss(embedding_H, len(hidden))
    return finish(student, total, hidden)


def node_tokens(batch: GraphBatch) -> list[Tensor]:
    """Flat indices of each node's prompt and reply."""
    real = batch.attention_mask_BT.flatten().bool()
    return [
        torch.cat([((batch.segment_S == span) & real).nonzero()[:, 0] for span in spans]) for spans in batch.spans_2N.T.tolist()
    ]


def ours(name: str, path: str, *, on_prompt: bool = False, lora: bool = False, checkpointing: bool = False) -> Result:
    """The same through `DistillModel`, laid out along a path."""
    student = student_of(name, lora=lora, checkpointing=checkpointing, attention=None if "gemma2" not in name else "eager")
    prepare_attention(decoder_of(student), path, device="cpu")  # type: ignore[arg-type]
    model = DistillModel(student, resolve_recipe("level2"))
    batch = collate(GRAPHS, pad_id=0, packed=path != "padded", loss_on_prompt=on_prompt)
    return through(model, batch)


def through(model: DistillModel, batch: GraphBatch) -> Result:
    hidden_SH, _ = model.embed(batch)
    outputs = model(batch)
    loss = outputs.next_token_sum + sum(embedding_loss(e_H, i + 1) for i, e_H in enumerate(outputs.embeddings_NH))
    return finish(model.student, loss, [hidden_SH[index] for index in node_tokens(batch)])


def assert_same(found: Result, expected: Result) -> None:
    torch.testing.assert_close(found.loss, expected.loss, atol=1e-5, rtol=1e-5)
    for mine, theirs in zip(found.hidden, expected.hidden, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)
    assert found.gradients.keys() == expected.gradients.keys()
    for name, gradient in expected.gradients.items():
        assert float((found.gradients[name] - gradient).norm()) <= 1e-5 * max(1e-3, float(gradient.norm())), name


def difference(found: Result, expected: Result) -> float:
    """The larger of the differences in loss (relative) and hidden states."""
    hidden = max(float((a - b).abs().max()) for a, b in zip(found.hidden, expected.hidden, strict=True))
    return max(hidden, abs(float(found.loss / expected.loss) - 1))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("path", ["segments", "padded"])
def test_every_layout_gives_what_each_node_gives_alone(name: str, path: str) -> None:
    assert_same(ours(name, path), alone(name))


@pytest.mark.parametrize("name", [LLAMA, "mistral, window 6", "gemma2, soft caps and window"])
def test_under_lora_too(name: str) -> None:
    assert_same(ours(name, "segments", lora=True), alone(name, lora=True))


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("name", [LLAMA, "mistral, window 6", "gemma3, window"])
def test_with_gradient_checkpointing_too(name: str, lora: bool) -> None:
    assert_same(ours(name, "segments", lora=lora, checkpointing=True), alone(name, lora=lora))


@pytest.mark.parametrize("path", ["segments", "padded"])
def test_a_shared_prompt_is_supervised_once_for_every_correct_node(path: str) -> None:
    assert_same(ours(LLAMA, path, on_prompt=True), alone(LLAMA, on_prompt=True))


@pytest.mark.parametrize("name", CONFIGS)
def test_flex_attention_gives_the_same_hidden_states(name: str) -> None:
    student, batch = student_of(name), collate(GRAPHS, pad_id=0, packed=True)
    decoder_of(student).set_attn_implementation("magdi_flex")
    with torch.no_grad():
        hidden_SH, _ = DistillModel(student, resolve_recipe("level2")).embed(batch)
    for index, theirs in zip(node_tokens(batch), alone(name).hidden, strict=True):
        torch.testing.assert_close(hidden_SH[index], theirs, atol=1e-5, rtol=1e-5)


def wrong(name: str, rows: dict[str, Any], **changes: Any) -> Result:
    """A packed batch through transformers' own attention, as somebody might do it."""
    batch = replace(collate(GRAPHS, pad_id=0, packed=True), **changes)
    student = student_of(name, attention="sdpa")
    hidden_SH = decoder_of(student)(input_ids=batch.input_ids_BT, **rows).last_hidden_state[0]
    loss = F.cross_entropy(student.lm_head(hidden_SH[batch.predict_M]), batch.targets_M, reduction="sum")
    return finish(student, loss, [hidden_SH[index] for index in node_tokens(batch)])


def right_loss() -> Result:
    """Each node alone, without what goes through embeddings."""
    student = student_of(LLAMA)
    prepare_attention(decoder_of(student), "segments", device="cpu")
    model, batch = DistillModel(student, resolve_recipe("level2")), collate(GRAPHS, pad_id=0, packed=True)
    hidden_SH, _ = model.embed(batch)
    return finish(student, model(batch).next_token_sum, [hidden_SH[index] for index in node_tokens(batch)])


def dense_mask(layout: Layout) -> Tensor:
    """[1, 1, T, T], true where the layout lets a token see another."""
    index = torch.arange(layout.length)
    return flex_mod(layout, window=None, device="cpu")(index, index, index[:, None], index[None, :])[None, None]


def test_a_dense_mask_from_the_same_layout_is_no_negative_control() -> None:
    layout = lay_out(GRAPHS)
    rows = {"position_ids": torch.tensor([positions(layout)]), "attention_mask": dense_mask(layout)}
    assert difference(wrong(LLAMA, rows), right_loss()) < 1e-5


def test_without_branch_isolation_the_comparison_fails() -> None:
    layout = lay_out(GRAPHS)
    causal = torch.ones(1, 1, layout.length, layout.length, dtype=torch.bool).tril()
    rows = {"position_ids": torch.tensor([positions(layout)]), "attention_mask": causal}
    assert difference(wrong(LLAMA, rows), right_loss()) > 1e-3


def test_without_position_restart_the_comparison_fails() -> None:
    layout = lay_out(GRAPHS)
    rows = {"position_ids": torch.arange(layout.length)[None], "attention_mask": dense_mask(layout)}
    assert difference(wrong(LLAMA, rows), right_loss()) > 1e-3


def test_with_the_mask_transformers_derives_from_positions_the_comparison_fails() -> None:
    layout = lay_out(GRAPHS)
    rows = {"position_ids": torch.tensor([positions(layout)]), "attention_mask": None}
    assert difference(wrong(LLAMA, rows), right_loss()) > 1e-3


def test_with_the_first_reply_token_predicted_from_the_neighbouring_token_the_comparison_fails() -> None:
    layout = lay_out(GRAPHS)
    batch = collate(GRAPHS, pad_id=0, packed=True)
    starts = [reply.start for graph in layout.graphs for reply in graph.replies]
    prompts = [graph.prompt.end - 1 for graph in layout.graphs for _ in graph.replies]
    neighbours = [start - 1 for start, right in zip(starts, batch.correct_N.tolist(), strict=True) if right]
    predict_M, first = batch.predict_M.clone(), torch.isin(batch.predict_M, torch.tensor(prompts))
    predict_M[first] = torch.tensor(neighbours)
    rows = {"position_ids": batch.position_ids_BT, "attention_mask": dense_mask(layout)}
    assert difference(wrong(LLAMA, rows, predict_M=predict_M), right_loss()) > 1e-3


def test_a_window_counted_in_the_row_instead_of_in_the_node_would_be_caught() -> None:
    layout = lay_out(GRAPHS)
    index = torch.arange(layout.length)
    in_row = dense_mask(layout) & (index[:, None] - index[None, :] < 11)
    rows = {"position_ids": torch.tensor([positions(layout)]), "attention_mask": in_row}
    name = "mistral, window 11"
    assert difference(wrong(name, rows), ours(name, "segments")._replace(loss=torch.ones(()))) > 1e-3


def test_the_mask_a_packed_row_passes_cannot_be_used_by_mistake() -> None:
    with pytest.raises(RuntimeError):
        F.scaled_dot_product_attention(*(torch.randn(1, 2, 8, 4) for _ in range(3)), attn_mask=unused_mask("cpu"))


def test_a_packed_batch_is_refused_by_a_student_that_reads_padded_rows() -> None:
    model = DistillModel(student_of(LLAMA), resolve_recipe("level2"))
    with pytest.raises(ConfigError, match="padded rows"):
        model(collate(GRAPHS, pad_id=0, packed=True))


@pytest.mark.parametrize("name", CONFIGS)
def test_without_a_layout_a_prepared_model_is_the_ordinary_one(name: str) -> None:
    plain, prepared, ids = student_of(name).eval(), student_of(name).eval(), torch.randint(1, VOCAB, (2, 20))
    prepare_attention(decoder_of(prepared), "segments", device="cpu")
    mask = torch.ones_like(ids)
    mask[1, :8] = 0
    expected = plain(input_ids=ids, attention_mask=mask).logits
    found = prepared(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], atol=1e-5, rtol=1e-5)


def test_what_is_saved_names_no_attention_of_ours(tmp_path: Any) -> None:
    student = student_of(LLAMA)
    prepare_attention(decoder_of(student), "segments", device="cpu")
    student.save_pretrained(tmp_path)
    assert "magdi" not in (tmp_path / "config.json").read_text()


def refused(name: str) -> PreTrainedModel:
    """A model that packed rows would get wrong."""
    small = {**SHAPE, "num_hidden_layers": 1}
    configs: dict[str, Callable[[], Any]] = {
        "alibi": lambda: BloomConfig(vocab_size=VOCAB, hidden_size=32, n_layer=1, n_head=4),
        "state": lambda: FalconH1Config(
            **small, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_n_groups=1, mamba_d_state=8
        ),
        "chunks": lambda: Llama4TextConfig(
            **small, intermediate_size_mlp=48, num_local_experts=1, head_dim=8, layer_types=["chunked_attention"]
        ),
    }
    return AutoModelForCausalLM.from_config(configs[name]()).get_decoder()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("name", "reason"), [("alibi", "ALiBi|interface"), ("state", "running state"), ("chunks", "chunked_attention")]
)
def test_a_model_that_cannot_be_packed_is_refused_with_the_reason_and_padded_offered(name: str, reason: str) -> None:
    decoder = refused(name)
    with pytest.raises(ConfigError, match=f"({reason}).*packing: padded"):
        prepare_attention(decoder, "segments", device="cpu")
    assert prepare_attention(decoder, "auto", device="cpu") == "padded"


def test_auto_takes_segments_on_cpu_and_flex_is_refused_there() -> None:
    decoder = decoder_of(student_of(LLAMA))
    assert prepare_attention(decoder, "auto", device="cpu") == "segments"
    with pytest.raises(ConfigError, match="no backward pass on CPU"):
        prepare_attention(decoder, "flex", device="cpu")


def test_a_sliding_window_that_may_not_arrive_is_refused() -> None:
    decoder = decoder_of(student_of("mistral, window 6"))
    decoder.config.model_type = "something_new"
    assert "sliding window" in str(obstacle(decoder))


def test_a_layout_is_the_row_from_its_first_to_its_last_token() -> None:
    layout = lay_out(GRAPHS)
    assert layout.graphs[0].prompt == Span(0, 9)
    assert layout.graphs[0].replies[:2] == (Span(9, 16), Span(16, 17))
    assert all(a.end == b.start for a, b in pairwise(layout.spans))
    assert positions(layout)[9:18] == [9, 10, 11, 12, 13, 14, 15, 9, 9]


EDGE_CASES = {
    "no correct node": graph_of(5, [4, 6], [0, 0]),
    "a single node": graph_of(5, [4], [1]),
    "200 nodes": graph_of(6, [1 + i % 7 for i in range(200)], [i % 3 == 0 for i in range(200)]),
    "an empty reply": graph_of(5, [4, 0, 3], [1, 1, 0]),
}


@pytest.mark.parametrize("case", EDGE_CASES)
@pytest.mark.parametrize("path", ["segments", "padded"])
def test_edge_cases_give_what_each_node_gives_alone(case: str, path: str) -> None:
    student = student_of(LLAMA, attention=None)
    prepare_attention(decoder_of(student), path, device="cpu")  # type: ignore[arg-type]
    batch = collate([EDGE_CASES[case]], pad_id=0, packed=path == "segments")
    found = through(DistillModel(student, resolve_recipe("level2")), batch)
    expected = alone(LLAMA, graphs=(EDGE_CASES[case],))
    if case == "no correct node":  # plain transformers never calls its head there; ours is reached, with nothing
        assert not found.gradients["lm_head.weight"].any()
        expected.gradients.setdefault("lm_head.weight", torch.zeros_like(found.gradients["lm_head.weight"]))
    assert_same(found, expected)


def test_with_all_labels_masked_the_loss_is_zero_and_every_weight_is_still_reached() -> None:
    student = student_of(LLAMA)
    prepare_attention(decoder_of(student), "segments", device="cpu")
    outputs = DistillModel(student, resolve_recipe("level2"))(collate(GRAPHS, pad_id=0, packed=True, next_token=False))
    outputs.next_token_sum.backward()
    assert float(outputs.next_token_sum) == 0.0
    assert all(p.grad is not None and not p.grad.any() for p in student.parameters())


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(GraphError, match="at least one token"):
        collate([graph_of(0, [3], [1])], pad_id=0, packed=True)


def test_a_packed_graph_counts_its_prompt_once_and_a_padded_one_for_every_node() -> None:
    switches = {"next_token": True, "loss_on_prompt": False}
    packed = [measure(graph, **switches, packed=True) for graph in GRAPHS]
    padded = [measure(graph, **switches) for graph in GRAPHS]
    assert forwarded(packed) == lay_out(GRAPHS).length == 9 + 25 + 4 + 3 + 14 + 16
    assert forwarded(padded) == collate(GRAPHS, pad_id=0).input_ids_BT.numel() == 7 * 24
    assert [size.supervised for size in packed] == [size.supervised for size in padded]
