"""Sentences completed by every variant, in memory and as a run."""

import json

import pytest
import torch
from outdim import Ablation, ablate
from outdim.analysis.fill import fill
from outdim.cli import main
from outdim.errors import ArgumentError
from tiny import tiny_model

TEXT = "w0 w1 [MASK] w2 <mask> w3"


@pytest.fixture(scope="module")
def masked():
    return tiny_model("bert", head="MaskedLM", outliers=[7, 19])


@pytest.fixture(scope="module")
def causal():
    return tiny_model("gpt2", head="CausalLM")


def test_masks(masked, tokenizer):
    off = Ablation([7, 19], at="parameters")
    found = fill(masked, tokenizer, TEXT, ablations=[off], controls=2, top=3)
    assert [variant.role for variant in found.variants] == ["intact", "ablated", *2 * ["control"]]
    ids = tokenizer("w0 w1 [MASK] w2 [MASK] w3", return_tensors="pt")["input_ids"]
    intact, ablated, *_ = found.completions
    for one, ablation in ((intact, None), (ablated, off)):
        with torch.inference_mode():
            if ablation is None:
                logits = masked(ids).logits
            else:
                with ablate(masked, ablation.dims, at="parameters"):
                    logits = masked(ids).logits
        best = logits[0, [3, 5]].argmax(-1).tolist()
        assert [t["token"] for t in one["tokens"]] == [tokenizer.decode([b]) for b in best]
        assert one["completed"].split() == ["w0", "w1", one["tokens"][0]["token"], "w2",
                                            one["tokens"][1]["token"], "w3"]  # fmt: skip
        assert all(len(t["others"]) == 2 for t in one["tokens"])
    same = sum(a["token"] == b["token"]
               for a, b in zip(intact["tokens"], ablated["tokens"], strict=True))  # fmt: skip
    assert (intact["same"], ablated["same"]) == (2, same)
    chances = [[t["probability"] for t in one["tokens"]] for one in (intact, ablated)]
    assert chances[0] != pytest.approx(chances[1], rel=1e-3)
    assert found.headline()[0].startswith(f"7+19 off (parameters): {same} of 2 masks filled as by")
    assert "2 sets of 2 other dimensions, on average:" in found.headline()[0]
    assert found.markdown().count("\n| ") == 6


def test_a_table_has_as_many_cells_whatever_is_written(masked, tokenizer):
    named = Ablation([7], name="a|b")
    found = fill(masked, tokenizer, "w0 [MASK]", ablations=[named], controls=0)
    assert "| a\\|b off (state) |" in found.markdown()
    assert "of 1 mask filled" in found.headline()[0]


def test_continuations(causal, tokenizer):
    found = fill(causal, tokenizer, ["w0 w1", "w5"], ablations=[3, [4, 5]], controls=1, tokens=6)
    assert len(found.completions) == 2 * 5  # two texts; three variants, a control of each size
    for one in found.completions:
        ids = found.found[f"{one['text']}/ids"][one["variant"]].tolist()
        kept = [i for i in ids if i >= 0]
        assert one["length"] == len(kept)
        intact = [i for i in found.found[f"{one['text']}/ids"][0].tolist() if i >= 0]
        same = 0
        while same < min(len(kept), len(intact)) and kept[same] == intact[same]:
            same += 1
        assert one["same"] == same
    assert len(found.headline()) == 2
    assert "2 texts are an illustration" in found.cautions()[0]


def test_an_encoder_configured_as_a_decoder_continues_prompts(tokenizer):
    model = tiny_model("bert", head="CausalLM", is_decoder=True)
    found = fill(model, tokenizer, "w0 w1", ablations=[3], controls=0, tokens=2)
    assert found.head == "lm"


def test_errors(masked, causal, tokenizer):
    for model, text, message in (
        (masked, "w0 w1", r"expected a mask \(\[MASK\] or <mask>\) in 'w0 w1'"),
        (causal, TEXT, "this model continues a text; expected a prompt without masks"),
        (causal, " ".join(["w0"] * 60), "text: expected at most 64 tokens, got 10"),
        (tiny_model("bert"), TEXT, "model: expected a masked language model"),
        (causal, [], "text: name the sentences"),
    ):
        with pytest.raises(ArgumentError, match=message):
            fill(model, tokenizer, text)
    with pytest.raises(ArgumentError, match="tokens: expected at least 1, got 0"):
        fill(causal, tokenizer, "w0", tokens=0)
    with pytest.raises(ArgumentError, match="tokens: this model fills masks"):
        fill(masked, tokenizer, TEXT, tokens=3)
    with pytest.raises(ArgumentError, match="top: this model continues a prompt"):
        fill(causal, tokenizer, "w0", top=3)
    for one, text in ((masked, TEXT), (causal, "w0")):
        one.train()
        try:
            with pytest.raises(ArgumentError, match="model: expected eval mode, got training"):
                fill(one, tokenizer, text)
        finally:
            one.eval()


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_as_a_run(tmp_path, family, tokenizer, capsys):
    head = "MaskedLM" if family == "bert" else "CausalLM"
    model, run = tiny_model(family, head=head, num_hidden_layers=2), tmp_path / "run"
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    texts = [TEXT, "w7 [MASK]"] if family == "bert" else ["w0 w1", "w7"]
    many = {"top": 5} if family == "bert" else {"tokens": 5}
    ((option, value),) = many.items()
    assert main(["evaluate", "fill", *texts, "--model", str(tmp_path / "model"), "--ablate", "3,4",
                 "--controls", "3", f"--{option}", str(value), "--threads", "2",
                 "--output", str(run)]) == 0  # fmt: skip
    document = json.loads((run / "evaluate_fill.json").read_text())
    again = fill(model, tokenizer, texts, ablations=[[3, 4]], controls=3, **many)
    kept = again.tables()["evaluate_fill"]
    assert document["variants"] == json.loads(json.dumps(kept["variants"]))
    for one, other in zip(document["completions"], kept["completions"], strict=True):
        assert one["completed"] == other["completed"]
    page, terminal = (run / "report.html").read_text(), capsys.readouterr().err
    title = "Masks filled in" if family == "bert" else "Prompts continued"
    assert title in page
    for said in ("3+4 off (state)", "random 1", "random 2"):
        assert said in page
        assert said in terminal
    assert "random 3" not in terminal  # in the JSON alone
