"""The installed harness on local tasks, offline: as its own model where nothing is ablated."""

import json
import subprocess
import sys
import warnings

import pytest
import torch
from outdim.analysis.pseudo_likelihood import Scored, pseudo_log_likelihood
from outdim.errors import ArgumentError, DataError
from outdim.models import Predictor
from tiny import tiny_model, tiny_tokenizer

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'outdim[lm-eval]'")
pytest.importorskip("accelerate", reason="accelerate is not installed")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the harness' own imports
    from lm_eval import simple_evaluate
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from outdim.integrations.lm_eval import AblatedLM

pytestmark = [
    pytest.mark.slow,  # with the packages that only the slow part of CI installs
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

DIMS = (3, 17)
PAIRS = [
    {"good": "w1 w2 ab w3", "bad": "w2 w1 ab w3"},
    {"good": "cab w9 w8", "bad": "cab w8 w9"},
    {"good": "w5 w6 w7 w8", "bad": "w8 w6 w7 w5"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny causal and a tiny masked model, and two tasks: minimal pairs and perplexity."""
    path = tmp_path_factory.mktemp("lm-eval")
    for name, family, head in (("causal", "llama", "CausalLM"), ("masked", "bert", "MaskedLM")):
        tiny_model(family, head=head).save_pretrained(path / name)
        tokenizer = tiny_tokenizer()
        tokenizer.eos_token = "[SEP]"  # stands before a text without context
        tokenizer.save_pretrained(path / name)
    (path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    source = f"dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {path}/pairs.jsonl\n"
    (path / "pairs.yaml").write_text(
        f"task: pairs\n{source}test_split: test\noutput_type: multiple_choice\n"
        'doc_to_text: ""\ndoc_to_target: 0\ndoc_to_choice: "{{[good, bad]}}"\n'
    )
    (path / "rolling.yaml").write_text(
        f"task: rolling\n{source}test_split: test\noutput_type: loglikelihood_rolling\n"
        'doc_to_text: ""\ndoc_to_target: "{{good}}"\nmetric_list:\n  - metric: byte_perplexity\n'
    )
    return path


def run(folder, model: str, name: str, **arguments):
    found = simple_evaluate(
        model=model,
        model_args={"pretrained": str(folder / name), "dtype": "float32", **arguments},
        tasks=["pairs", "rolling"],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        device="cpu",
        batch_size=2,
        bootstrap_iters=0,
    )
    samples = [
        sample["resps"] for task in ("pairs", "rolling") for sample in found["samples"][task]
    ]
    return found["results"], samples


def request(*arguments: str) -> Instance:
    return Instance("loglikelihood", {}, arguments, 0)


def test_the_installed_release_has_no_entry_points():
    """Once it has, `python -m outdim.integrations.lm_eval` is not needed any more."""
    from pathlib import Path

    import lm_eval.api.registry
    import lm_eval.models

    for module in (lm_eval.api.registry, lm_eval.models):
        assert "entry_points(" not in Path(module.__file__).read_text()


def test_intact_it_is_the_harness_own_model(folder):
    assert run(folder, "outdim", "causal") == run(folder, "hf", "causal")


@pytest.mark.parametrize("written", ["3+17", [3, 17]])
def test_ablated_it_is_the_harness_own_model_with_hooks(folder, monkeypatch, written):
    _, intact = run(folder, "hf", "causal")
    results, samples = run(folder, "outdim", "causal", dims=written, layers="2+3")
    plain = HFLM._model_call

    def hooked(self, *args, **kwargs):
        def off(module, given, output):
            hidden = (output[0] if isinstance(output, tuple) else output).clone()
            hidden[..., list(DIMS)] = 0
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        layers = self.model.model.layers
        handles = [layers[layer - 1].register_forward_hook(off) for layer in (2, 3)]
        try:
            return plain(self, *args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()

    monkeypatch.setattr(HFLM, "_model_call", hooked)
    assert (results, samples) == run(folder, "hf", "causal")
    assert samples != intact


def test_it_generates_ablated_and_leaves_the_model_as_it_was(folder):
    prompts = [Instance("generate_until", {}, ("w1 w2", {"max_gen_toks": 8, "until": ["zzz"]}), 0)]
    said = {}
    for name, dims in (("intact", None), ("ablated", "0+1+2+3+4+5+6+7+8+9+10+11")):
        model = AblatedLM(str(folder / "causal"), dims, device="cpu", dtype="float32")
        before = [p.clone() for p in model.model.parameters()]
        said[name] = model.generate_until(prompts, disable_tqdm=True)
        assert all(map(torch.equal, before, model.model.parameters()))
    plain = HFLM(str(folder / "causal"), device="cpu", dtype="float32")
    assert said["intact"] == plain.generate_until(prompts, disable_tqdm=True) != said["ablated"]


def test_a_masked_model_gives_pseudo_log_likelihoods_of_minimal_pairs(folder):
    tokenizer = tiny_tokenizer()
    predictor = Predictor(tiny_model("bert", head="MaskedLM"))
    results, samples = run(folder, "outdim", "masked")

    def expected(text: str) -> float:
        encoded = tokenizer(text)
        words = encoded.word_ids(0)
        at = [i for i, word in enumerate(words) if word is not None]
        scored = Scored(encoded["input_ids"], words, at)
        return float(pseudo_log_likelihood(predictor, [scored], mask_id=4).log_p)

    hits = []
    for pair, sample in zip(PAIRS, samples[: len(PAIRS)], strict=True):
        scores = [float(choice[0][0]) for choice in sample]
        wanted = [expected(pair["good"]), expected(pair["bad"])]
        assert scores == pytest.approx(wanted, abs=1e-4)
        hits.append(wanted[0] > wanted[1])
    assert results["pairs"]["acc,none"] == pytest.approx(sum(hits) / len(hits))
    text = sum(expected(pair["good"]) for pair in PAIRS)
    size = sum(len(pair["good"]) for pair in PAIRS)
    perplexity = 2.718281828459045 ** (-text / size)
    assert results["rolling"]["byte_perplexity,none"] == pytest.approx(perplexity, rel=1e-4)
    assert run(folder, "outdim", "masked", dims=3, at="parameters")[1] != samples


def test_a_masked_model_scores_the_continuation_alone(folder):
    model = AblatedLM(str(folder / "masked"), device="cpu")
    (whole, _), (part, _), (rest, _) = model.loglikelihood(
        [request("", "w1 w2 w3"), request("w1", " w2 w3"), request("w1 w2 ", "w3")],
        disable_tqdm=True,
    )
    assert whole < part < rest < 0
    with pytest.raises(ArgumentError, match="cannot generate"):
        model.generate_until([Instance("generate_until", {}, ("w1", {"max_gen_toks": 2}), 0)])
    for nothing in (("w1", ""), ("", "w1 " * 100)):
        with pytest.raises(DataError, match="expected 1 to 64 tokens"):
            model.loglikelihood([request(*nothing)], disable_tqdm=True)


def test_a_masked_model_may_be_given_as_an_object(folder):
    requests = [request("", "w1 w2 w3"), request("w1", " w2 w3")]
    path = str(folder / "masked")
    expected = AblatedLM(path, device="cpu", dims=3).loglikelihood(requests, disable_tqdm=True)
    model = AblatedLM(tiny_model("bert", head="MaskedLM"), tokenizer=path, dims=3)
    assert model.loglikelihood(requests, disable_tqdm=True) == expected
    with pytest.raises(ArgumentError, match="model: expected a masked language model"):
        AblatedLM(tiny_model("bert"), tokenizer=path)


def test_mixed_precision_is_not_ignored_in_silence(folder):
    with pytest.raises(ArgumentError, match="mixed_precision_dtype: not for masked"):
        AblatedLM(str(folder / "masked"), device="cpu", mixed_precision_dtype="bfloat16")


def test_a_masked_model_without_a_head_is_refused(folder, tmp_path):
    tiny_model("bert").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(DataError, match="would be random"):
        AblatedLM(str(tmp_path), device="cpu")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"dims": "3+x"}, r"dims: expected whole numbers joined by \+, as 507\+247, got '3\+x'"),
        ({"at": "parameters"}, "dims: an ablation needs them"),
        ({"dims": 99}, "dims: expected 0 to 31, got 99"),
        ({"dims": 3, "layers": "5"}, r"layers: expected 0 \(the embeddings\) to 4, got 5"),
        (
            {"dims": 3, "at": "parameters"},
            r"at: .* 'parameters' has no meaning",
        ),  # of a pre-LN model
    ],
)
def test_what_no_model_can_do_is_said_before_a_task_begins(folder, arguments, said):
    with pytest.raises(ArgumentError, match=said):
        AblatedLM(str(folder / "causal"), device="cpu", **arguments)


def test_the_command_line_is_that_of_the_harness(folder, tmp_path):
    command = [
        sys.executable, "-m", "outdim.integrations.lm_eval", "--model", "outdim", "--model_args",
        f"pretrained={folder / 'causal'},dims=3+17,at=state,dtype=float32", "--tasks", "pairs",
        "--include_path", str(folder), "--device", "cpu", "--output_path", str(tmp_path),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "outdim ({" in done.stdout
    (file,) = tmp_path.rglob("results_*.json")
    results, _ = run(folder, "outdim", "causal", dims="3+17")
    found = json.loads(file.read_text())["results"]["pairs"]
    assert found["acc,none"] == results["pairs"]["acc,none"]
