"""What a plan says of a training: against numbers worked out by hand, against the training's own plan, against autograd."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from magdi_ray.config.distil import (
    DeepSpeedConfig,
    DevConfig,
    DistilEstimateConfig,
    FullTuning,
    LoraTuning,
    QloraTuning,
    TrainConfig,
)
from magdi_ray.config.recipes import NextToken, RecipeConfig, resolve_recipe
from magdi_ray.distill.attention import prepare_attention, unused_mask
from magdi_ray.distill.forecast.cost import count_steps, forecast, spent_flops, tokens_at_once, training_flops
from magdi_ray.distill.forecast.memory import CHUNK, Trainee, activation_bytes, head_parameters, memory_per_rank
from magdi_ray.distill.forecast.shapes import PUBLISHED, StudentShape, from_config
from magdi_ray.distill.forecast.workload import Expected, Workload, counted_workload, expected_workload
from magdi_ray.distill.head import CHUNK as HEAD_CHUNK
from magdi_ray.distill.packing import lay_out, packed_ids, positions
from magdi_ray.distill.plan import measure, plan_steps
from magdi_ray.distill.student import DistillModel
from magdi_ray.distill.tokens import GraphTokens, NodeTokens, needs_incorrect, tokenise
from magdi_ray.distill.watch.view import rough_flops
from magdi_ray.graph.build import build_mag
from magdi_ray.graph.formats import import_debates
from magdi_ray.tasks.gsm8k import Gsm8k

from .conftest import Workbench

SHAPE = StudentShape(hidden=8, intermediate=16, layers=2, heads=2, kv_heads=1, head_dim=4, vocab=100)
"""Matrices: 2 x (8x8 + 2 x 8x4 + 8x8 + 3 x 8x16) = 2 x 576 = 1152 weights; head 800."""
LORA = LoraTuning(type="lora", r=2, dropout=0.0)
"""On q_proj and v_proj: 2 x (2 x (8+8) + 2 x (8+4)) = 112 weights."""
FULL = FullTuning(type="full")
LEVEL4, LEVEL2 = resolve_recipe("level4"), resolve_recipe("level2")


def graph(name: str, prompt: int, *nodes: tuple[int, bool]) -> GraphTokens:
    made = tuple(NodeTokens((1,) * length, correct, f"{name}/{i}") for i, (length, correct) in enumerate(nodes))
    return GraphTokens(name, (1,) * prompt, made, ())


ONE = graph("q1", 10, (4, True), (6, False), (5, True))
TWO = graph("q2", 20, (5, True))


def test_a_workload_is_counted_as_by_hand() -> None:
    work = counted_workload([ONE, TWO], LEVEL4)
    assert (work.questions, work.graphs, work.nodes, work.largest) == (2, 2, 4, 25)
    assert work.forwarded == (10 + 4 + 6 + 5) + (20 + 5)
    assert work.supervised == work.headed == 4 + 5 + 5
    assert work.attended == (55 + 40 + 10 + 60 + 21 + 50 + 15) + (210 + 100 + 15)
    assert work.pairwise == (14 + 15) + 2 * 16 + 25 + 20  # two pairs; one pair with a placeholder
    assert work.reread == 14 + 16 + 15 + 25


def test_padded_rows_hold_the_prompt_once_a_node() -> None:
    work = counted_workload([ONE], LEVEL4, packed=False)
    assert (work.forwarded, work.reread) == (3 * 10 + 15, 0)


def test_a_workload_holds_what_the_training_plan_measures(bench: Workbench) -> None:
    on_prompt = RecipeConfig(name="x", objectives=(NextToken(name="next_token", loss_on_prompt=True), *LEVEL4.objectives[1:]))
    graphs = bench.graphs("level4")
    for recipe, switch in ((LEVEL4, False), (on_prompt, True)):
        sizes = [measure(item, next_token=True, loss_on_prompt=switch, packed=True) for item in graphs]
        work = counted_workload(graphs, recipe)
        assert (work.supervised, work.forwarded, work.nodes) == (
            sum(size.supervised for size in sizes),
            sum(size.tokens for size in sizes),
            sum(size.nodes for size in sizes),
        )


@pytest.mark.parametrize("right", [3, 1])
@pytest.mark.parametrize("name", ["level2", "level3", "level4", "dpo"])
def test_what_is_expected_of_equal_graphs_is_what_is_counted_of_them(name: str, right: int) -> None:
    recipe = resolve_recipe(name)  # type: ignore[arg-type]
    graphs = [graph(f"q{i}", 30, *[(12, True)] * right, *[(12, False)] * (5 - right)) for i in range(8)]
    if not needs_incorrect(recipe):
        graphs = [graph(item.question_id, 30, (12, True)) for item in graphs for _ in range(right)]
    expected = expected_workload(Expected(8, 5.0, 5, prompt=30, reply=12, correct_share=right / 5), recipe)
    assert expected == counted_workload(graphs, recipe)


def test_steps_are_those_of_the_training_plan() -> None:
    graphs = [graph(f"q{i}", 30, (12, True), (13, True), (9, False)) for i in range(53)]
    sizes = [measure(item, next_token=True, loss_on_prompt=False) for item in graphs]
    work = counted_workload(graphs, LEVEL4)
    for config in (TrainConfig(epochs=3, tokens_per_step=170), TrainConfig(max_steps=11, tokens_per_step=170)):
        assert count_steps(work, config)[0] == len(plan_steps(sizes, config, seed=0))


def test_steps_over_recorded_debates_come_within_a_tenth(data_dir: Path, bench: Workbench) -> None:
    found = import_debates("society", data_dir / "debates/du_gsm/gsm_3_2_100.json", Gsm8k())
    mags = [build_mag(debate, Gsm8k()) for debate in found.debates]
    graphs = tokenise(mags, Gsm8k(), tokenizer=bench.tokenizer, recipe=LEVEL4, max_length=4096).graphs
    config = TrainConfig(epochs=10, tokens_per_step=4096)
    sizes = [measure(item, next_token=True, loss_on_prompt=False) for item in graphs]
    steps, _ = count_steps(counted_workload(graphs, LEVEL4), config)
    assert steps == pytest.approx(len(plan_steps(sizes, config, seed=0)), rel=0.1)


def test_flops_are_those_worked_out_by_hand() -> None:
    work = counted_workload([TWO], LEVEL4)
    products, attention, head = 2 * 1152 * 25, 4 * 2 * 8 * 325, 2 * 800 * 5
    full = training_flops(work, Trainee(SHAPE, FULL), gradient_checkpointing=False)
    assert full == 3 * products + 3 * attention + 3 * head
    adapters = 2 * 112 * 25
    lora = training_flops(work, Trainee(SHAPE, LORA), gradient_checkpointing=False)
    assert lora == 2 * products + 3 * adapters + 3 * attention + 2 * head
    again = training_flops(work, Trainee(SHAPE, LORA), gradient_checkpointing=True)
    assert again - lora == products + adapters + attention


def test_preference_takes_a_reference_pass_over_all_replies() -> None:
    work = counted_workload([ONE], resolve_recipe("dpo"))
    assert (work.headed, work.supervised) == (15, 15)
    train = TrainConfig(epochs=2, tokens_per_step=1)
    found = forecast(resolve_recipe("dpo"), work, Trainee(SHAPE, FULL), train)
    once = training_flops(work, Trainee(SHAPE, FULL), gradient_checkpointing=False)
    assert found.flops == pytest.approx(2 * once + once / 3)


def test_time_is_flops_over_what_the_gpus_put_to_use() -> None:
    found = forecast(LEVEL4, counted_workload([ONE, TWO], LEVEL4), Trainee(SHAPE, FULL), TrainConfig(epochs=1))
    assumed = DistilEstimateConfig(utilisation=0.5, gpu_tflops=100.0)
    assert found.flops is not None
    assert found.seconds(assumed, 4) == pytest.approx(found.flops / (4 * 50e12))


def test_measurements_before_between_and_after_the_steps_take_forward_passes() -> None:
    work, held_out = counted_workload([ONE] * 10, LEVEL4), counted_workload([TWO], LEVEL4)
    dev, train = DevConfig(every_steps=4), TrainConfig(max_steps=10, tokens_per_step=9)
    found = forecast(LEVEL4, work, Trainee(SHAPE, FULL), train, dev=dev, held_out=held_out)
    assert found.measurements == 4  # before the first step, after the 4th, the 8th and the last
    assert found.measuring == 4 * (2 * 1152 * 25 + 4 * 2 * 8 * 325 + 2 * 800 * 5)
    assumed = DistilEstimateConfig(utilisation=1.0, gpu_tflops=1.0)
    assert found.flops is not None
    assert found.seconds(assumed, 1) == pytest.approx((found.flops + found.measuring) / 1e12)


REAL = Expected(1000, 5.0, 12, prompt=100, reply=120, correct_share=0.8)


def model_config(shape: StudentShape, kind: str) -> object:
    return AutoConfig.for_model(
        kind,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        vocab_size=shape.vocab,
        tie_word_embeddings=shape.tied,
    )


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("tuning", [FULL, LoraTuning(type="lora")])
@pytest.mark.parametrize(("name", "kind"), [("mistralai/Mistral-7B-v0.1", "mistral"), ("Qwen/Qwen3-0.6B", "qwen3")])
def test_a_finished_training_counts_as_its_plan_did(name: str, kind: str, tuning: FullTuning | LoraTuning, again: bool) -> None:
    shape, work = PUBLISHED[name], expected_workload(REAL, LEVEL4)
    planned = training_flops(work, Trainee(shape, tuning), gradient_checkpointing=again)
    tokens = {"forwarded": work.forwarded, "supervised": work.supervised}
    spent = spent_flops(model_config(shape, kind), tuning, **tokens, gradient_checkpointing=again)
    assert spent == pytest.approx(planned, rel=0.05)
    assert spent is not None
    assert spent < planned  # it leaves attention out


def test_the_rule_of_thumb_for_unknown_students_comes_close_to_the_plan() -> None:
    shape, work = PUBLISHED["mistralai/Mistral-7B-v0.1"], expected_workload(REAL, LEVEL4)
    for trainee in (Trainee(shape, FULL), Trainee(shape, LoraTuning(type="lora"))):
        planned = training_flops(work, trainee, gradient_checkpointing=False)
        parameters = shape.parameters + trainee.adapters
        assert rough_flops(work.forwarded, parameters=parameters, trained=trainee.trained) == pytest.approx(planned, rel=0.05)
    assert spent_flops(AutoConfig.for_model("gpt2"), FULL, forwarded=1, supervised=1, gradient_checkpointing=False) is None


def test_replies_too_long_for_the_student_are_said_beforehand() -> None:
    assert REAL.exceeds(220) is None
    assert "distil.student.max_length (219)" in (REAL.exceeds(219) or "")


def test_a_micro_batch_is_a_workers_share_cut_at_the_limit_or_one_large_graph() -> None:
    work = counted_workload([ONE] * 100, LEVEL4)  # 25 tokens and 9 learned ones a graph
    step = TrainConfig(epochs=1, tokens_per_step=90)
    assert tokens_at_once(work, step, workers=2) == 10 * 25 // 2
    assert tokens_at_once(work, step.model_copy(update={"tokens_per_micro_batch": 60}), workers=2) == 60
    assert tokens_at_once(work, step.model_copy(update={"tokens_per_micro_batch": 5}), workers=2) == 25


def test_memory_is_that_of_the_zero_paper() -> None:
    """Equations of arXiv 1910.02054, figure 1: 7.5 G weights on 64 ranks hold 120, 31.4, 16.6 and 1.9 GB."""
    shape = StudentShape(hidden=4096, intermediate=11008, layers=32, heads=32, kv_heads=32, head_dim=128, vocab=125_000)
    assert shape.parameters == pytest.approx(7.5e9, rel=0.01)
    train = TrainConfig(epochs=1, bf16=True)
    for stage, gigabytes in ((0, 120.0), (1, 31.4), (2, 16.6), (3, 1.9)):
        held = memory_per_rank(Trainee(shape, FULL), train, DeepSpeedConfig(zero_stage=stage), workers=64, tokens=0).parts  # type: ignore[arg-type]
        assert (held["weights"] + held["gradients"] + held["optimiser"]) / 1e9 == pytest.approx(gigabytes, rel=0.02)


def test_offloading_moves_bytes_to_the_host() -> None:
    train, student = TrainConfig(epochs=1, bf16=True), Trainee(SHAPE, FULL)
    plain = memory_per_rank(student, train, DeepSpeedConfig(zero_stage=3), workers=2, tokens=10)
    moved = DeepSpeedConfig(zero_stage=3, offload_optimizer="cpu", offload_param="cpu")
    offloaded = memory_per_rank(student, train, moved, workers=2, tokens=10)
    assert offloaded.host == (2 + 2 + 12) * SHAPE.parameters / 2
    assert offloaded.total + offloaded.host == pytest.approx(plain.total)


def test_quantised_weights_take_half_a_byte_and_their_scales() -> None:
    train, deepspeed = TrainConfig(epochs=1, bf16=True), DeepSpeedConfig()
    shape = StudentShape(hidden=4096, intermediate=11008, layers=32, heads=32, kv_heads=32, head_dim=128, vocab=32000)
    qlora = QloraTuning(type="qlora", target_modules=("q_proj",))
    sizes = {
        double: memory_per_rank(
            Trainee(shape, qlora.model_copy(update={"double_quant": double})), train, deepspeed, workers=1, tokens=0
        ).parts["weights"]
        for double in (True, False)
    }
    assert (sizes[False] - sizes[True]) * 8 / shape.matrices == pytest.approx(0.373, abs=1e-3)
    rest = shape.parameters - shape.matrices + Trainee(shape, qlora).adapters
    assert sizes[False] == shape.matrices * 0.5625 + 2 * rest


@pytest.mark.parametrize("projection", [None, 16])
@pytest.mark.parametrize("network", ["gcn", "rgcn", "gat"])
def test_the_training_heads_are_counted_as_they_are_made(bench: Workbench, network: str, projection: int | None) -> None:
    changes = {"network": network, "projection": projection}
    model: DistillModel = bench.model("level4", **changes)
    heads = sum(weight.numel() for name, weight in model.named_parameters() if not name.startswith("student."))
    objectives = tuple(o.model_copy(update=changes) if o.name == "interaction" else o for o in LEVEL4.objectives)
    recipe = LEVEL4.model_copy(update={"objectives": objectives})
    assert head_parameters(from_config(model.student.config, source=""), recipe) == heads


def test_the_chunk_of_logits_is_that_of_the_head() -> None:
    assert CHUNK == HEAD_CHUNK


def kept_for_backward(kind: str, tuning: FullTuning | LoraTuning, layers: int, dtype: torch.dtype) -> tuple[float, StudentShape]:
    """Bytes a token that autograd really keeps of a packed forward pass, weights aside; the row is a prompt of 40 and 4 x 20."""
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 24}
    config = AutoConfig.for_model(kind, vocab_size=300, num_hidden_layers=layers, **sizes)
    model = AutoModelForCausalLM.from_config(config).to(dtype)
    if isinstance(tuning, LoraTuning):
        targets = tuning.target_modules if isinstance(tuning.target_modules, str) else list(tuning.target_modules)
        lora = LoraConfig(r=tuning.r, lora_dropout=tuning.dropout, target_modules=targets, task_type="CAUSAL_LM")
        model = get_peft_model(model, lora, autocast_adapter_dtype=False).get_base_model()
        model.enable_input_require_grads()
    decoder = model.get_decoder().train()
    prepare_attention(decoder, "segments")
    row = graph("q", 40, *[(20, True)] * 4)
    layout = lay_out([row])
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    inputs = {"input_ids": torch.tensor([packed_ids([row])]), "position_ids": torch.tensor([positions(layout)])}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = decoder(**inputs, attention_mask=unused_mask("cpu"), layout=layout, use_cache=False)
    assert output.last_hidden_state.requires_grad
    return sum(s.nbytes() for place, s in kept.items() if place not in weights) / layout.length, from_config(config, source="")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "tuning",
    [FULL, LORA, LoraTuning(type="lora", r=4), LoraTuning(type="lora", r=4, target_modules="all-linear", dropout=0.0)],
)
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_activations_are_what_autograd_keeps(kind: str, tuning: FullTuning | LoraTuning, dtype: torch.dtype) -> None:
    (three, shape), (one, _) = (kept_for_backward(kind, tuning, layers, dtype) for layers in (3, 1))
    reread = 4 * (40 + 20) / 120
    counted = activation_bytes(Trainee(shape, tuning), bf16=dtype == torch.bfloat16, reread=reread, gpu=False)
    assert (three - one) / 2 == pytest.approx(counted)


def test_held_out_questions_leave_every_count_in_proportion() -> None:
    work = counted_workload([ONE] * 4, LEVEL2)
    assert isinstance(work, Workload)
    many = expected_workload(Expected(100, 5.0, 12, prompt=30, reply=12, correct_share=0.6), LEVEL4)
    left = many.without(25)
    assert (left.questions, left.nodes, left.forwarded, left.largest) == (75, 375, many.forwarded * 3 // 4, many.largest)
