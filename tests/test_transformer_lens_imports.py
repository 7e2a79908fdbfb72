"""What our import of TransformerLens defers works when it is used, and nobody else's imports change."""

import builtins
import subprocess
import sys
from importlib.metadata import version

import pytest

from emg_lens.transformer_lens_imports import DeferredName, deferring

FIRST_OURS = "import sys; from emg_lens import IsoNet, IsoNetConfig, cross_modal, cutting, sweep;"
FIRST_THEIRS = "import transformer_lens, transformers, datasets;" + FIRST_OURS
USE = """
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformer_lens.utilities import keep_single_column, tokenize_and_concatenate, tokenize_utils

words = Tokenizer(models.WordLevel({"[UNK]": 0, "[BOS]": 1, "[EOS]": 2, "[PAD]": 3, "wrist": 4, "fist": 5}, "[UNK]"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=words, unk_token="[UNK]", bos_token="[BOS]", eos_token="[EOS]", pad_token="[PAD]"
)
texts = Dataset.from_dict({"text": ["wrist fist wrist fist"] * 4, "other": [1, 2, 3, 4]})
print(keep_single_column(texts, "text").column_names, isinstance(texts, tokenize_utils.Dataset))
print(isinstance(tokenizer, tokenize_utils.PreTrainedTokenizerBase), isinstance(3, tokenize_utils.Dataset))
print(tokenize_and_concatenate(texts, tokenizer, max_length=4)["tokens"][:2].tolist())
print(tokenize_utils.AutoTokenizer.__name__, tokenize_utils.AutoTokenizer.from_pretrained.__name__)
torch.manual_seed(0)
model = IsoNet(IsoNetConfig(modalities={"emg": 4, "acc": 3}, n_samples=50, n_classes=3)).eval()
x = model.example_input(batch=2)
with cutting(model, cross_modal()):
    print(model.run_with_cache(x)[0].sum().item())
"""


def run(code: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(version("transformer-lens") < "4", reason="TransformerLens 3 needs them for HookedTransformer")
def test_models_do_not_wait_for_language_models():
    loaded = run(f"{FIRST_OURS} print(*sys.modules)").split()
    assert "transformer_lens" in loaded
    assert not {"transformers", "datasets"} & set(loaded)


@pytest.mark.slow
def test_what_is_deferred_works_like_what_is_not():
    assert run(FIRST_OURS + USE) == run(FIRST_THEIRS + USE)


@pytest.fixture
def importing(tmp_path, monkeypatch):
    """Import a module of some text while `fractions`, which is not loaded, is deferred for it."""
    monkeypatch.syspath_prepend(tmp_path)

    def load(name: str, text: str, importers: tuple[str, ...] = ("deferred_a",)):
        (tmp_path / f"{name}.py").write_text(text)
        for module in ("fractions", name):
            monkeypatch.delitem(sys.modules, module, raising=False)
        with deferring(importers, ("fractions",)):
            return __import__(name)

    return load


def test_a_deferred_name_is_loaded_on_first_use_and_only_then(importing):
    module = importing("deferred_a", "from fractions import Fraction\nclass Third(list): of: 'Fraction | None'\n")
    assert isinstance(module.Fraction, DeferredName)
    assert not isinstance(3, module.Fraction) and "fractions" not in sys.modules
    third = module.Fraction(1, 3)
    assert third.denominator == 3 and "fractions" in sys.modules
    assert isinstance(third, module.Fraction) and not isinstance(3, module.Fraction)
    assert issubclass(type(third), module.Fraction)
    assert issubclass(_heir(module.Fraction), type(third))
    assert module.Fraction | None and None | module.Fraction


def _heir(base):
    class Heir(base):
        pass

    return Heir


@pytest.mark.parametrize(
    "text",
    [
        "import fractions\nFraction = fractions.Fraction",
        "from fractions import *\nimport fractions\nFraction = fractions.Fraction",
        "def load():\n    from fractions import Fraction\n    return Fraction\nFraction = load()",
    ],
    ids=["import", "star", "inside a function"],
)
def test_other_forms_of_import_are_not_deferred(importing, text):
    assert isinstance(importing("deferred_a", text).Fraction, type)


def test_other_importers_get_the_real_thing(importing):
    assert isinstance(importing("deferred_b", "from fractions import Fraction").Fraction, type)


def test_the_interpreters_import_is_put_back_after_an_error(importing):
    plain = builtins.__import__
    with pytest.raises(ZeroDivisionError):
        importing("deferred_a", "from fractions import Fraction\n1 / 0")
    assert builtins.__import__ is plain
