"""A measurement on dev questions: the same on any number of workers and ZeRO stage, batched as one by one, and traceless."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from transformers import PreTrainedTokenizerBase

from magdi_ray.agents.base import Message
from magdi_ray.agents.chat import encode_prompt
from magdi_ray.config.distil import DeepSpeedConfig, DevConfig, LoraTuning, TrainConfig
from magdi_ray.config.recipes import Interaction, RecipeConfig, resolve_recipe
from magdi_ray.distill import zero
from magdi_ray.distill.attention import prepare_attention
from magdi_ray.distill.batch import GraphBatch, collate
from magdi_ray.distill.job import TrainState
from magdi_ray.distill.plan import GraphSize, measure
from magdi_ray.distill.student import DistillModel, add_lora, decoder_of, load_tokenizer
from magdi_ray.distill.tokens import GraphTokens, tokenise
from magdi_ray.distill.watch.dev import DevExam, DevFigures, choose_questions, judge, measure_dev
from magdi_ray.errors import ConfigError, GraphError
from magdi_ray.tasks.base import Question
from magdi_ray.tasks.gsm8k import Gsm8k

from .conftest import MAGS, Workbench
from .ranks import start
from .test_packing import CONFIGS, VOCAB, student_of

TRAIN = TrainConfig(max_steps=2, tokens_per_step=60, tokens_per_micro_batch=150, warmup_steps=1, learning_rate=1e-3)
"""A step holds less than the dev graphs do, so that they are measured in several portions."""

QUESTIONS = tuple(Question(f"d{i}", "How many eggs? " * i + f"{i}", str(i), "dev") for i in (1, 2, 3, 5, 4))

LONG = Question("long", "How many eggs? " * 2000, "1", "dev")
"""Longer than the student's context."""


class Reading(Gsm8k):
    """Answers that an untrained student can give: the number of letters of a reply, mod 4; none for a short reply."""

    def extract(self, question: Question, reply: str) -> str | None:
        return None if len(reply) < 4 else str(sum(map(ord, reply)) % 4)


@dataclass(frozen=True)
class Dev:
    """Dev graphs as `measure_dev` wants them."""

    graphs: tuple[GraphTokens, ...]

    @property
    def sizes(self) -> Sequence[GraphSize]:
        return tuple(measure(graph, next_token=True, loss_on_prompt=False, packed=True) for graph in self.graphs)

    def batch(self, graphs: Sequence[int]) -> GraphBatch:
        return collate([self.graphs[i] for i in graphs], pad_id=0, packed=True)


class Engine:
    """What `measure_dev` asks of DeepSpeed, without it."""

    device = torch.device("cpu")

    def __init__(self, module: DistillModel) -> None:
        self.module = module

    def __call__(self, batch: GraphBatch) -> Any:
        return self.module(batch)

    def train(self, mode: bool = True) -> None:
        self.module.train(mode)

    def eval(self) -> None:
        self.module.eval()

    def zero_optimization_stage(self) -> int:
        return 0


def recipe() -> RecipeConfig:
    return resolve_recipe("level4")


def graphs_of(tokenizer: PreTrainedTokenizerBase) -> tuple[GraphTokens, ...]:
    return tokenise(MAGS, Gsm8k(), tokenizer=tokenizer, recipe=recipe(), max_length=256).graphs


def model_of(directory: Path, *, lora: bool = False, checkpointing: bool = False) -> DistillModel:
    """The workbench's student with weights large enough to write different things to different prompts."""
    from transformers import LlamaForCausalLM

    causal: Any = LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32)
    torch.manual_seed(0)
    for parameter in causal.parameters():
        torch.nn.init.normal_(parameter, std=0.3) if parameter.dim() > 1 else None
    if checkpointing:
        causal.gradient_checkpointing_enable()
        causal.enable_input_require_grads()
    if lora:
        causal = add_lora(causal, LoraTuning(type="lora", r=4, dropout=0.5))
    prepare_attention(decoder_of(causal), "auto", device="cpu")
    return DistillModel(causal, recipe())


def exam_of(tokenizer: PreTrainedTokenizerBase, questions: tuple[Question, ...] = QUESTIONS) -> DevExam:
    return DevExam(Reading(), tokenizer, questions, max_tokens=8)


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Threads only wait for each other on tensors this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def alone(tmp_path: Path) -> Any:
    """A process group of one; it meets in a file, for a port that was free may be taken by the time it is used."""
    dist.init_process_group("gloo", rank=0, world_size=1, init_method=f"file://{tmp_path / 'meeting'}")
    yield
    dist.destroy_process_group()


# --- what a measurement is --------------------------------------------------------------------------------------------


def test_the_loss_is_the_training_loss_of_all_dev_graphs_at_once(bench: Workbench, alone: None) -> None:
    from magdi_ray.distill.batch import Counts
    from magdi_ray.distill.objectives import weighted_sum

    model, dev = model_of(bench.directory), Dev(graphs_of(bench.tokenizer))
    batch = dev.batch(range(len(dev.graphs)))
    counts = Counts(len(batch.targets_M), len(batch.correct_N), batch.pairs_2P.shape[1])
    expected, parts = weighted_sum(model.eval()(batch), batch, recipe().objectives, counts)
    found = measure_dev(Engine(model), dev, recipe=recipe(), train=TRAIN)
    assert found.loss == pytest.approx(float(expected), abs=1e-5)
    assert found.parts == pytest.approx({name: float(part) for name, part in parts.items()}, abs=1e-5)
    assert (found.accuracy, found.answered, found.unread) == (None, 0, 0)


def one_by_one(model: DistillModel, exam: DevExam) -> tuple[int, int]:
    """(right, unread), each question alone, greedily, without a cache and without `generate`."""
    right = unread = 0
    student = model.eval().student
    for question in exam.questions:
        ids = encode_prompt(exam.tokenizer, [Message("user", exam.task.prompt(question))])
        start = len(ids)
        while len(ids) < start + exam.max_tokens and (len(ids) == start or ids[-1] != exam.tokenizer.eos_token_id):
            with torch.no_grad():
                ids.append(int(student(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        answer = exam.task.extract(question, exam.tokenizer.decode(ids[start:], skip_special_tokens=True))
        unread += answer is None
        right += exam.task.same(answer, question.gold)
    return right, unread


@pytest.mark.parametrize("lora", [False, True])
def test_questions_answered_together_are_answered_as_one_by_one(bench: Workbench, alone: None, lora: bool) -> None:
    model, exam = model_of(bench.directory, lora=lora), exam_of(bench.tokenizer)
    found = measure_dev(Engine(model), Dev(graphs_of(bench.tokenizer)), recipe=recipe(), train=TRAIN, exam=exam)
    right, unread = one_by_one(model, exam)
    assert (found.accuracy, found.answered, found.unread) == (right / 5, 5, unread)


class Ends:
    """What a tokenizer says of special tokens."""

    eos_token_id, pad_token_id = 5, 0


@pytest.mark.parametrize("name", CONFIGS)
def test_left_padding_changes_no_token_under_the_attention_of_training(name: str) -> None:
    from magdi_ray.distill.watch.dev import _generate, _greedy

    student = student_of(name, attention=None).eval()
    prepare_attention(decoder_of(student), "segments", device="cpu")
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(1, VOCAB, (n,), generator=generator).tolist() for n in (3, 17, 9)]

    with _greedy(student, Ends()) as settings:  # type: ignore[arg-type]
        together = _generate(student, prompts, settings, 10, "cpu", synced=False)
        alone = [_generate(student, [prompt], settings, 10, "cpu", synced=False)[0] for prompt in prompts]
    assert together == alone
    assert len({tuple(reply) for reply in together}) > 1


def test_the_models_own_settings_of_generation_change_no_token() -> None:
    from magdi_ray.distill.watch.dev import _generate, _greedy

    student = student_of("llama, grouped queries", lora=True, attention=None).eval()
    replies = []
    for penalty in (1.0, 9.0):
        student.generation_config.repetition_penalty = penalty
        student.get_base_model().generation_config.repetition_penalty = penalty
        with _greedy(student, Ends()) as settings:  # type: ignore[arg-type]
            replies.append(_generate(student, [[3, 4, 6]], settings, 20, "cpu", synced=False))
    assert replies[0] == replies[1]


def test_a_measurement_leaves_no_trace(bench: Workbench, alone: None) -> None:
    model = model_of(bench.directory, lora=True, checkpointing=True).train()
    causal = model.student.get_base_model()
    causal.generation_config.repetition_penalty = 9.0
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    draws = torch.random.get_rng_state()
    exam = exam_of(bench.tokenizer)
    found = measure_dev(Engine(model), Dev(graphs_of(bench.tokenizer)), recipe=recipe(), train=TRAIN, exam=exam)
    assert all(module.training for module in model.modules())
    assert causal.generation_config.repetition_penalty == 9.0
    assert torch.equal(draws, torch.random.get_rng_state())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    plain = model_of(bench.directory)  # no penalty, no checkpointing, and an adapter that does nothing yet
    expected = measure_dev(Engine(plain), Dev(graphs_of(bench.tokenizer)), recipe=recipe(), train=TRAIN, exam=exam)
    assert (found.accuracy, found.unread) == (expected.accuracy, expected.unread)


def test_the_mode_comes_back_even_when_measuring_fails(bench: Workbench, alone: None) -> None:
    model = model_of(bench.directory).train()
    tokens = graphs_of(bench.tokenizer)[0]
    with pytest.raises(GraphError, match="at least one token"):
        measure_dev(Engine(model), Dev((replace(tokens, prompt_ids=()),)), recipe=recipe(), train=TRAIN)
    assert model.training


def test_a_question_longer_than_the_context_is_wrong_and_unread(bench: Workbench, alone: None) -> None:
    model, dev = model_of(bench.directory), Dev(graphs_of(bench.tokenizer))
    found = measure_dev(Engine(model), dev, recipe=recipe(), train=TRAIN, exam=exam_of(bench.tokenizer, (LONG,)))
    assert (found.accuracy, found.answered, found.unread) == (0.0, 1, 1)


def test_no_dev_graph_is_said_with_what_to_do(alone: None) -> None:
    with pytest.raises(ConfigError, match=r"distil\.dev\.graphs"):
        measure_dev(None, Dev(()), recipe=recipe(), train=TRAIN)


# --- the questions ----------------------------------------------------------------------------------------------------


def test_the_questions_are_a_fixed_choice_among_those_with_a_gold_answer() -> None:
    questions = [Question(f"q{i}", "?", str(i) if i % 2 else None, "dev") for i in range(40)]
    chosen = choose_questions(questions, DevConfig(accuracy_questions=5), seed=1)
    assert len(chosen) == 5
    assert all(question.gold for question in chosen)
    assert chosen == choose_questions(questions[::-1], DevConfig(accuracy_questions=5), seed=1)
    assert chosen == choose_questions(questions, DevConfig(accuracy_questions=7), seed=1)[:5]
    assert chosen != choose_questions(questions, DevConfig(accuracy_questions=5), seed=2)


# --- patience ---------------------------------------------------------------------------------------------------------


def judged(losses: Sequence[float], patience: int | None) -> tuple[list[tuple[bool, bool]], TrainState]:
    state = TrainState()
    found = []
    for number, loss in enumerate(losses):
        state.step = 10 * number
        found.append(judge(state, loss, patience))
    return found, state


def test_training_stops_after_so_many_measurements_without_a_new_lowest() -> None:
    found, state = judged([3.0, 2.0, 2.5, 2.0, 1.9, 2.0, 2.1], patience=2)
    assert [best for best, _ in found] == [True, True, False, False, True, False, False]
    assert [stop for _, stop in found] == [False, False, False, True, False, False, True]
    assert (state.best_loss, state.best_step, state.dev_loss, state.without_gain) == (1.9, 40, 2.1, 2)


def test_without_patience_training_never_stops() -> None:
    found, _ = judged([1.0] * 50, patience=None)
    assert not any(stop for _, stop in found)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_never_the_best(wrong: float) -> None:
    found, state = judged([wrong, 2.0, wrong], patience=1)
    assert found == [(False, True), (True, False), (False, True)]
    assert (state.best_loss, state.best_step) == (2.0, 10)


def test_measuring_the_best_step_again_costs_no_patience() -> None:
    state = TrainState(step=5)
    assert judge(state, 2.0, 1) == (True, False)
    assert judge(state, 2.0, 1) == (False, False)
    assert state.without_gain == 0


# --- several workers --------------------------------------------------------------------------------------------------

STUDENTS = {
    "full": {},
    "lora, checkpointing": {"lora": True, "checkpointing": True},
}
Result = tuple[list[DevFigures], dict[str, torch.Tensor]]


def train_and_measure(
    directory: Path, student: dict[str, bool], *, stage: Any, rank: int, exams: Sequence[DevExam], dev: Dev
) -> Result:
    """A training step, a measurement for each exam, and another step: the figures, and the weights on rank 0."""
    from magdi_ray.distill.batch import Counts
    from magdi_ray.distill.objectives import weighted_sum

    objectives = tuple(o.model_copy(update={"dropout": 0.0}) if isinstance(o, Interaction) else o for o in recipe().objectives)
    engine = zero.build_engine(model_of(directory, **student), TRAIN, deepspeed=DeepSpeedConfig(zero_stage=stage), steps=2)
    torch.manual_seed(0)
    figures: list[DevFigures] = []
    for step in range(2):
        engine.train()
        batch = dev.batch((step,))
        loss, _ = weighted_sum(engine(batch), batch, objectives, Counts(50, 6, 8))
        engine.backward(loss)
        engine.step()
        if step == 0:
            figures += [measure_dev(engine, dev, recipe=recipe(), train=TRAIN, exam=exam) for exam in exams]
    return figures, zero.gathered_state(engine, rank=rank) or {}


def work(rank: int, world: int, directory: Path, out: Path) -> None:
    """One rank: every student under stages 0 and 3."""
    settings = zero.deepspeed_settings

    def partitioned(*args: Any) -> dict[str, Any]:
        """Weights this small would stay whole on every rank, and nothing would have to be gathered."""
        made = settings(*args)
        made["zero_optimization"] |= {"stage3_param_persistence_threshold": 0} if made["zero_optimization"]["stage"] == 3 else {}
        return made

    zero.deepspeed_settings = partitioned
    tokenizer = load_tokenizer(str(directory))
    dev = Dev(graphs_of(tokenizer))
    exams = [exam_of(tokenizer), exam_of(tokenizer, (QUESTIONS[0], LONG))]  # the second leaves a rank without a question
    results: dict[tuple[str, int, int, bool], Result] = {}
    for name, student in STUDENTS.items():
        for stage in (0, 3) if world > 1 else (0,):
            for measured in (True, False) if stage == 3 else (True,):
                chosen = exams if measured else []
                found = train_and_measure(directory, student, stage=stage, rank=rank, exams=chosen, dev=dev)
                results[name, world, stage, measured] = found
    torch.save(results, out / f"{world}-{rank}.pt")


@pytest.fixture(scope="module")
def results(bench: Workbench, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int, int, bool], Result]:
    """(student, ranks, stage, measured on the way) -> figures and weights, as rank 0 has them."""
    out = tmp_path_factory.mktemp("dev")
    found: dict[tuple[str, int, int, bool], Result] = {}
    for world in (1, 2):
        start(work, world, bench.directory, out)
        ranks = [torch.load(out / f"{world}-{rank}.pt", weights_only=False) for rank in range(world)]
        for key in ranks[0]:
            for one, other in zip(ranks[0][key][0], ranks[-1][key][0], strict=True):
                assert (one.loss, one.accuracy, one.unread) == (other.loss, other.accuracy, other.unread)
        found |= ranks[0]
    return found


@pytest.mark.parametrize("student", STUDENTS)
@pytest.mark.parametrize("stage", [0, 3])
def test_two_ranks_measure_what_one_does_under_every_stage(results: Any, student: str, stage: int) -> None:
    found, expected = results[student, 2, stage, True][0], results[student, 1, 0, True][0]
    for one, other in zip(found, expected, strict=True):
        assert one.loss == pytest.approx(other.loss, abs=1e-5)
        assert one.parts == pytest.approx(other.parts, abs=1e-5)
        assert (one.accuracy, one.answered, one.unread) == (other.accuracy, other.answered, other.unread)


@pytest.mark.parametrize("student", STUDENTS)
def test_a_training_that_is_measured_goes_on_as_one_that_is_not(results: Any, student: str) -> None:
    weights, expected = results[student, 2, 3, True][1], results[student, 2, 3, False][1]
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected[name], atol=1e-6, rtol=0)
