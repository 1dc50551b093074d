"""Local weights: a reply is the same alone and in company, and what is counted is what was generated."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from magdi_ray.agents.base import ContextLengthError, Message, Reply, Sampling
from magdi_ray.agents.load import load_engine
from magdi_ray.agents.transformers import RowEnd, TokenChooser, TransformersAgent
from magdi_ray.agents.weights import check_model_directory, resolve_model, split_adapter
from magdi_ray.config.engines import TransformersEngine
from magdi_ray.errors import ConfigError, EngineError

WORDS = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{i}" for i in range(60))]
CONTEXT = 64


def make_tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>", padding_side="right"
    )


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Llama whose own generation settings would spoil every test that let them act."""
    directory = tmp_path_factory.mktemp("model")
    torch.set_num_threads(1)  # threads that wait for each other cost more than so small a model
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = LlamaConfig(vocab_size=len(WORDS), max_position_embeddings=CONTEXT, initializer_range=0.3, **shape, **tokens)
    LlamaForCausalLM(config).save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)
    settings = {**tokens, "do_sample": True, "temperature": 9.0, "top_k": 1, "repetition_penalty": 5.0, "min_new_tokens": 30}
    (directory / "generation_config.json").write_text(json.dumps(settings))
    return directory


@pytest.fixture(scope="session")
def agent(model_dir: Path) -> TransformersAgent:
    return TransformersAgent(TransformersEngine(type="transformers", model=str(model_dir)))


def user(text: str) -> list[Message]:
    return [Message("user", text)]


def ask(agent: TransformersAgent, requests: list[tuple[list[Message], Sampling]]) -> list[Reply]:
    async def run() -> list[Reply]:
        return await asyncio.gather(*(agent.generate(messages, sampling) for messages, sampling in requests))

    return asyncio.run(run())


def draw(seed: int | None, **changes: Any) -> Sampling:
    return Sampling(**{"temperature": 1.0, "max_tokens": 12, "seed": seed, **changes})


def test_a_seed_gives_one_text_alone_in_a_batch_and_at_every_place_in_it(agent: TransformersAgent) -> None:
    requests = [(user(" ".join(f"w{j}" for j in range(i, 2 * i + 1))), draw(i, top_p=0.9 if i % 2 else 1.0)) for i in range(8)]
    together = ask(agent, requests)
    assert [reply.text for reply in ask(agent, requests[::-1])[::-1]] == [reply.text for reply in together]
    assert [ask(agent, [request])[0].text for request in requests] == [reply.text for reply in together]
    assert len({reply.text for reply in together}) == 8


def test_no_seed_draws_anew(agent: TransformersAgent) -> None:
    assert len({reply.text for reply in ask(agent, [(user("w1"), draw(None))] * 4)}) > 1


def test_greedy_replies_are_those_of_plain_generate(agent: TransformersAgent, model_dir: Path) -> None:
    prompts = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9"]
    replies = ask(agent, [(user(prompt), Sampling(max_tokens=10)) for prompt in prompts])
    plain = AutoModelForCausalLM.from_pretrained(model_dir)
    plain.generation_config = agent.model.generation_config
    tokenizer = make_tokenizer()
    for prompt, reply in zip(prompts, replies, strict=True):
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        expected = plain.generate(ids, max_new_tokens=10)[0, ids.shape[1] :]
        probability = plain(torch.cat([ids[0], expected])[None]).logits.softmax(-1)[0, ids.shape[1] - 1 : -1]
        assert reply.text == tokenizer.decode(expected, skip_special_tokens=True)
        assert (reply.tokens_in, reply.tokens_out) == (ids.shape[1], len(expected))
        assert reply.confidence == pytest.approx(probability.gather(1, expected[:, None]).mean().item(), abs=1e-5)


def test_requests_with_different_sampling_share_a_batch(agent: TransformersAgent) -> None:
    calls: list[int] = []
    inner = agent.model.generate

    def counted(**arguments: Any) -> Any:
        calls.append(len(arguments["input_ids"]))
        return inner(**arguments)

    agent.model.generate = counted
    try:
        samplings = [Sampling(max_tokens=3), draw(5, max_tokens=9), draw(6)]
        replies = ask(agent, [(user("w1 w2"), sampling) for sampling in samplings])
    finally:
        del agent.model.generate
    assert calls == [3]
    assert [reply.tokens_out <= limit for reply, limit in zip(replies, (3, 9, 12), strict=True)] == [True] * 3
    assert replies[0].text == ask(agent, [(user("w1 w2"), Sampling(max_tokens=3))])[0].text


def test_a_reply_cut_by_max_tokens_says_so_and_one_that_ended_says_stop(agent: TransformersAgent) -> None:
    replies = ask(agent, [(user("w1"), draw(seed, max_tokens=20)) for seed in range(32)])
    assert {reply.finish_reason for reply in replies} == {"stop", "length"}
    for reply in replies:
        assert (reply.tokens_out == 20) or reply.finish_reason == "stop"
        assert len(reply.text.split()) <= reply.tokens_out


def test_a_reply_ends_before_its_stop_string_and_its_neighbours_do_not(agent: TransformersAgent) -> None:
    [whole] = ask(agent, [(user("w1 w2"), Sampling(max_tokens=12))])
    words = whole.text.split()
    stop = next(word for word in words[1:] if word != words[0])
    stopping = Sampling(max_tokens=12, stop=("absent", stop))
    cut, other = ask(agent, [(user("w1 w2"), stopping), (user("w1 w2"), Sampling(max_tokens=12))])
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert (cut.finish_reason, cut.tokens_out) == ("stop", words.index(stop) + 1)
    assert (other.text, other.tokens_out) == (whole.text, whole.tokens_out)


def test_rows_stop_being_decoded_at_their_own_end() -> None:
    def letters(ids: list[int]) -> str:
        return "".join(chr(96 + i) for i in ids)  # 1 is "a"

    ends = RowEnd(
        [Sampling(max_tokens=2), Sampling(max_tokens=9, stop=("bc",)), Sampling(max_tokens=9)],
        prompt_length=1,
        device=torch.device("cpu"),
        end_ids=frozenset(),
        decode=letters,
    )
    done = [ends(torch.tensor([[0, 1, 2, 3, 4][: 2 + step]] * 3), None).tolist() for step in range(3)]
    assert done == [[False, False, False], [True, False, False], [True, True, False]]
    assert ends.lengths == [2, 3, 9]


def test_the_draws_follow_temperature_and_nucleus() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    settings = [draw(seed, top_p=top_p, max_tokens=1) for seed in range(4000) for top_p in (1.0, 0.7)]
    chooser = TokenChooser(settings, prompt_length=3, device=torch.device("cpu"))
    chosen = chooser(torch.zeros(8000, 3, dtype=torch.long), logits.repeat(8000, 1)).argmax(-1)
    full, nucleus = Counter(chosen[0::2].tolist()), Counter(chosen[1::2].tolist())
    assert [full[i] / 4000 for i in range(4)] == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.025)
    assert [nucleus[i] / 4000 for i in range(4)] == pytest.approx([0.625, 0.375, 0.0, 0.0], abs=0.025)
    assert chooser.probabilities[0].tolist() == pytest.approx(logits.exp()[chosen].tolist())


def test_a_prompt_beyond_the_context_is_refused_with_both_counts(agent: TransformersAgent) -> None:
    with pytest.raises(ContextLengthError, match="prompt's 60 tokens and max_tokens=5 exceed the 64"):
        ask(agent, [(user("w1 " * 60), Sampling(max_tokens=5))])
    assert ask(agent, [(user("w1 " * 60), Sampling(max_tokens=4))])[0].tokens_in == 60


def test_chat_templates_are_used_and_refusals_are_told(agent: TransformersAgent) -> None:
    messages = [Message("user", "w1"), Message("assistant", "w2")]
    assert ask(agent, [(messages, Sampling(max_tokens=1))])[0].tokens_in == 2
    agent.tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "<s> {{ m.content }} {% endfor %}{% if add_generation_prompt %}w9{% endif %}"
    )
    try:
        assert ask(agent, [(messages, Sampling(max_tokens=1))])[0].tokens_in == 5
        with pytest.raises(EngineError, match=r"roles \[system\]: no system role"):
            ask(agent, [([Message("system", "w1")], Sampling())])
    finally:
        agent.tokenizer.chat_template = None


def test_an_adapter_answers_as_its_base_with_the_adapter_on(agent: TransformersAgent, model_dir: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(model_dir), LoraConfig(r=4, init_lora_weights=False))
    tuned.save_pretrained(tmp_path)
    engine = load_engine(TransformersEngine(type="transformers", model=str(tmp_path), system_prompt="w7"))
    assert isinstance(engine, TransformersAgent)
    ids = torch.tensor([[11, 5, 6]])
    torch.testing.assert_close(engine.model(ids).logits, tuned(ids).logits, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(engine.model(ids).logits, agent.model(ids).logits, atol=1e-2)
    assert ask(engine, [(user("w1 w2"), Sampling(max_tokens=1))])[0].tokens_in == 3


def save_adapter(base: Path, directory: Path) -> None:
    from peft import LoraConfig, get_peft_model

    get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=4, init_lora_weights=False)).save_pretrained(
        directory
    )


def test_an_adapter_behind_a_colon_answers_as_the_model_it_was_merged_into(model_dir: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    save_adapter(model_dir, tmp_path / "adapter")
    config = tmp_path / "adapter" / "adapter_config.json"
    elsewhere = {**json.loads(config.read_text()), "base_model_name_or_path": "org/moved-since"}
    config.write_text(json.dumps(elsewhere))
    merged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_dir), tmp_path / "adapter").merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    make_tokenizer().save_pretrained(tmp_path / "merged")
    names = [f"{model_dir}:{tmp_path / 'adapter'}", str(tmp_path / "merged")]
    engines = [TransformersAgent(TransformersEngine(type="transformers", model=name)) for name in names]
    requests = [(user(f"w{i} w{i + 1}"), Sampling(max_tokens=10)) for i in range(6)]
    through_colon, in_one = ([reply.text for reply in ask(engine, requests)] for engine in engines)
    assert through_colon == in_one


def test_an_adapter_that_does_not_fit_its_base_is_an_engine_error(model_dir: Path, tmp_path: Path) -> None:
    save_adapter(model_dir, tmp_path)
    with pytest.raises(EngineError, match="could not be loaded"):
        TransformersAgent(TransformersEngine(type="transformers", model=f"pkg://magdi_ray/tiny/models/ada:{tmp_path}"))


def test_base_and_adapter_are_told_apart_by_the_colon_that_is_no_schemes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert split_adapter("pkg://a/b:pkg://c/d") == ("pkg://a/b", "pkg://c/d")
    assert split_adapter("org/name:/x/y") == ("org/name", "/x/y")
    assert split_adapter("pkg://a/b") == ("pkg://a/b", None)
    (tmp_path / "a:b").mkdir()
    assert split_adapter(str(tmp_path / "a:b")) == (str(tmp_path / "a:b"), None)
    for wrong in ("a:b:c", "a:", ":b"):
        with pytest.raises(ConfigError, match="`base` or `base:adapter`"):
            split_adapter(wrong)
    (tmp_path / "tuned").mkdir()
    monkeypatch.chdir(tmp_path)
    engine = TransformersEngine(type="transformers", model="pkg://magdi_ray/tiny/models/ada:tuned")
    assert engine.files() == ("pkg://magdi_ray/tiny/models/ada", "tuned")
    assert engine.located().model == f"pkg://magdi_ray/tiny/models/ada:{tmp_path}/tuned"


def test_both_halves_of_base_and_adapter_are_checked(model_dir: Path, tmp_path: Path) -> None:
    save_adapter(model_dir, tmp_path / "adapter")
    check_model_directory(f"{model_dir}:{tmp_path / 'adapter'}")
    check_model_directory(f"{model_dir}:org/adapter")
    wrong = {
        f"{model_dir}:{tmp_path / 'nothing'}": "No adapter directory at",
        f"{tmp_path / 'nothing'}:{tmp_path / 'adapter'}": "No model directory at",
        f"{model_dir}:{model_dir}": "no PEFT adapter",
        f"{tmp_path / 'adapter'}:{tmp_path / 'adapter'}": "an adapter on an adapter",
    }
    for name, told in wrong.items():
        with pytest.raises(ConfigError, match=told):
            check_model_directory(name)


def test_what_is_missing_is_said_before_anything_is_loaded(model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No model directory at"):
        check_model_directory(str(tmp_path / "nothing"))
    broken = tmp_path / "broken"
    shutil.copytree(model_dir, broken)
    check_model_directory(str(broken))
    for file, told in {"tokenizer.json": "no tokenizer", "model.safetensors": "no weights", "config.json": "neither"}.items():
        (broken / file).unlink()
        with pytest.raises(ConfigError, match=told):
            check_model_directory(str(broken))
    (broken / "adapter_config.json").write_text('{"base_model_name_or_path": null}')
    (broken / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match="names no base model"):
        check_model_directory(str(broken))


def test_weights_that_cannot_be_read_are_an_engine_error(model_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(model_dir, tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(EngineError, match="could not be loaded: SafetensorError"):
        TransformersAgent(TransformersEngine(type="transformers", model=str(tmp_path / "broken")))


def test_package_names_resolve_to_directories_and_hub_names_stay() -> None:
    assert resolve_model("pkg://magdi_ray/agents").endswith("magdi_ray/agents")
    assert resolve_model("org/name") == "org/name"
    check_model_directory("org/name")
    wrong = {"pkg://magdi_ray/no/such": "holds no", "pkg://absent_package/x": "not installed", "pkg://a/../b": "written"}
    for name, told in wrong.items():
        with pytest.raises(ConfigError, match=told):
            resolve_model(name)
