"""TinyMyo against numbers that its authors' code gave: every intermediate of every block, heads, losses, gradients.

The numbers are read from `EMG_LENS_FIXTURES`, by default `shared/fixtures` next to the checkout; without them they
are skipped. docs/tinymyo-model.md §9 says what is computed.
"""

import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors.torch import load_file, save_file

from emg_lens.models import TinyMyo
from emg_lens.models.tinymyo.weights import frequencies, to_theirs

FIXTURES = Path(os.environ.get("EMG_LENS_FIXTURES", Path(__file__).parents[4] / "shared" / "fixtures")) / "tinymyo"
WEIGHTS = FIXTURES / "weights_pretrain_v1.safetensors"
pytestmark = pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"no numbers of the authors' code in {FIXTURES}")

OUTPUT, STREAM, EXACT = dict(atol=3e-5, rtol=1e-5), dict(atol=5e-5, rtol=1e-5), dict(atol=1e-6, rtol=1e-5)


def numbers(name: str) -> dict[str, torch.Tensor]:
    return load_file(FIXTURES / f"{name}.safetensors")


def load(rope: str = "none", **changes) -> TinyMyo:
    return TinyMyo.from_published(WEIGHTS, rope=rope, modalities={"emg": 6}, n_samples=80, **changes)


def by_token(signal: torch.Tensor) -> torch.Tensor:
    return rearrange(signal, "b channel (patch sample) -> b (channel patch) sample", sample=20)


def by_head(x: torch.Tensor) -> torch.Tensor:
    """[batch, pos, head, d_head] -> [batch, head, pos, d_head], as upstream hands it on."""
    return x.transpose(1, 2)


@pytest.fixture(scope="module")
def run():
    model, theirs = load(), numbers("small_unmasked_v1")
    with torch.no_grad():
        out, cache = model.run_with_cache(theirs["input"])
    return out, cache, theirs


@pytest.mark.parametrize("layer", range(8))
def test_every_intermediate_of_a_block_equals_the_authors(run, layer):
    _, cache, theirs = run
    block = {key.removeprefix(f"blocks.{layer}."): value for key, value in theirs.items() if f"blocks.{layer}." in key}
    at = f"blocks.{layer}."
    norms = {n: cache[f"{at}ln{n}.hook_normalized"] for n in (1, 2)}
    weights = load().blocks[layer]
    q, k, v = (cache[at + f"attn.hook_{name}"].flatten(2) for name in "qkv")
    ours = {
        "resid_pre": cache["resid_pre", layer],
        "norm1": norms[1] * weights.ln1.w + weights.ln1.b,
        "qkv": torch.cat([q, k, v], dim=-1),
        "v": by_head(cache["v", layer]),
        "scores": cache["attn_scores", layer],
        "pattern": cache["pattern", layer],
        "z": by_head(cache["z", layer]),
        "attn_out": cache["attn_out", layer],
        "resid_mid": cache["resid_mid", layer],
        "norm2": norms[2] * weights.ln2.w + weights.ln2.b,
        "mlp_pre": cache[at + "mlp.hook_pre"],
        "mlp_post": cache[at + "mlp.hook_post"],
        "mlp_out": cache["mlp_out", layer],
        "resid_post": cache["resid_post", layer],
    }
    assert set(block) - set(ours) == {"q_rot", "k_rot"}  # turned by the head's index there, which no product feels
    for name, value in ours.items():
        tolerance = dict(atol=1e-6, rtol=1e-5) if name == "pattern" else STREAM
        torch.testing.assert_close(value, block[name], msg=lambda m, name=name: f"{name}: {m}", **tolerance)


def test_embedding_last_norm_and_samples_equal_the_authors(run):
    out, cache, theirs = run
    torch.testing.assert_close(cache["hook_embed"], theirs["embed"], **STREAM)
    final = load().ln_final
    torch.testing.assert_close(cache["ln_final.hook_normalized"] * final.w + final.b, theirs["final_norm"], **STREAM)
    torch.testing.assert_close(by_token(out), theirs["output"], **OUTPUT)
    with torch.no_grad():
        torch.testing.assert_close(by_token(load()(theirs["input"])), theirs["output"], **OUTPUT)  # without hooks


def losses(out, x, hidden):
    """Smooth L1 over hidden and over visible samples, and both with a tenth of the second."""
    masked = hidden.repeat_interleave(20, 1).view_as(x)
    of_masked, of_visible = F.smooth_l1_loss(out[masked], x[masked]), F.smooth_l1_loss(out[~masked], x[~masked])
    return of_masked, of_visible, of_masked + 0.1 * of_visible


def test_hidden_tokens_losses_and_gradients_equal_the_authors():
    model, theirs = load(), numbers("small_masked_v1")
    hidden = theirs["mask_tokens"]
    assert torch.equal(by_token(theirs["mask"]).any(-1), hidden)
    out = model(theirs["input"], masked=hidden)
    torch.testing.assert_close(out, theirs["recon_signal"], **OUTPUT)
    found = losses(out, theirs["input"], hidden)
    for value, name in zip(found, ("loss_masked", "loss_visible", "loss_total"), strict=True):
        torch.testing.assert_close(value, theirs[name], **EXACT)
    with torch.no_grad():
        _, cache = model.run_with_cache(theirs["input"], masked=hidden)
    torch.testing.assert_close(cache["hook_embed"], theirs["embed_after_mask"], **STREAM)
    for layer in range(8):
        torch.testing.assert_close(cache["resid_post", layer], theirs[f"blocks.{layer}.resid_post"], **STREAM)
        torch.testing.assert_close(cache["pattern", layer], theirs[f"blocks.{layer}.pattern"], **EXACT)
    found[2].backward()
    gradients = to_theirs({name: p.grad for name, p in model.named_parameters()}, model.cfg)
    wanted = {name.removeprefix("grad/"): g for name, g in theirs.items() if name.startswith("grad/")}
    assert len(wanted) == 9
    for name, gradient in wanted.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-6, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_rotation_over_tokens_equals_the_authors():
    model, theirs = load("token"), numbers("small_tokenrope_pr4")
    with torch.no_grad():
        out, cache = model.run_with_cache(theirs["input"])
        hidden = theirs["mask_tokens"]
        of_hidden = model(theirs["input"], masked=hidden)
    torch.testing.assert_close(frequencies(model.cfg), theirs["rotary_freqs"], atol=0, rtol=1e-6)
    for ours, name in (("hook_rot_q", "q_rot"), ("hook_rot_k", "k_rot"), ("hook_v", "v"), ("hook_z", "z")):
        torch.testing.assert_close(by_head(cache[f"blocks.0.attn.{ours}"]), theirs[f"blocks.0.{name}"], **STREAM)
    unturned = torch.cat([cache[f"blocks.0.attn.hook_{name}"].flatten(2) for name in "qkv"], -1)
    torch.testing.assert_close(unturned, theirs["blocks.0.qkv"], **STREAM)
    torch.testing.assert_close(cache["attn_scores", 0], theirs["blocks.0.scores"], **STREAM)
    for layer in range(8):
        torch.testing.assert_close(cache["pattern", layer], theirs[f"blocks.{layer}.pattern"], **EXACT)
        torch.testing.assert_close(cache["resid_post", layer], theirs[f"blocks.{layer}.resid_post"], **STREAM)
    torch.testing.assert_close(by_token(out), theirs["output"], **OUTPUT)
    torch.testing.assert_close(by_token(of_hidden), theirs["masked_output"], **OUTPUT)
    for value, name in zip(
        losses(of_hidden, theirs["input"], hidden), ("loss_masked", "loss_visible", "loss_total"), strict=True
    ):
        torch.testing.assert_close(value, theirs[name], **EXACT)


def with_head(tag: str, folder: Path) -> Path:
    """A file of the encoder's tensors and one of the fixture's heads, named as Lightning names them."""
    encoder = {name: tensor for name, tensor in load_file(WEIGHTS).items() if not name.startswith("model_head.")}
    heads = numbers("weights_heads")
    own = {name.removeprefix(f"{tag}/"): tensor for name, tensor in heads.items() if name.startswith(f"{tag}/")}
    assert own
    save_file({f"model.{name}": tensor for name, tensor in (encoder | own).items()}, folder / f"{tag}.safetensors")
    return folder / f"{tag}.safetensors"


@pytest.mark.parametrize(
    ("tag", "key", "changes"),
    [
        ("cls_concat_6ch_6", "out_cls_concat_6ch_6", {}),
        ("cls_mean_6ch_6", "out_cls_mean_6ch_6", {"modalities": {"emg": 6}}),
        ("reg_concat_6ch_5", "out_reg_concat_6ch_5", {}),
        ("reg_concat_6ch_5", "out_reg_concat_6ch_5_noupsample", {"output_samples": 4}),
    ],
)
def test_every_head_equals_the_authors(tmp_path, tag, key, changes):
    theirs = numbers("small_heads_v1")
    model = TinyMyo.from_published(with_head(tag, tmp_path), n_samples=80, **changes)
    assert model.cfg.n_channels == 6 and model.cfg.n_classes == int(tag.rsplit("_", 1)[1])
    with torch.no_grad():
        torch.testing.assert_close(model(theirs["input"]), theirs[key], **OUTPUT)


@pytest.mark.parametrize(
    ("tag", "n_parameters"),
    [
        ("cls_concat_16ch_53", 3_726_389),
        ("cls_mean_16ch_53", 3_573_749),
        ("reg_concat_16ch_5", 4_352_517),
        ("cls_concat_8ch_7", 3_563_520 + 7 * (8 * 192 + 1)),
    ],
)
def test_every_size_is_the_published_one_and_goes_back_bit_for_bit(tmp_path, tag, n_parameters):
    path = with_head(tag, tmp_path)
    model = TinyMyo.from_published(path)
    assert model.load_report.n_parameters == n_parameters and model.load_report.n_encoder == 3_563_520
    back, given = model.to_upstream(), load_file(path)
    assert {f"model.{name}" for name in back} == set(given)
    assert any("pooled" in note for note in model.load_report.notes) == tag.startswith("reg")
    assert all(torch.equal(tensor, given[f"model.{name}"]) for name, tensor in back.items())


def test_the_authors_weights_state_their_rotation_only_in_files_with_frequencies(tmp_path):
    state, theirs = load_file(WEIGHTS), numbers("small_tokenrope_pr4")
    report = TinyMyo.from_published(WEIGHTS).load_report
    assert (
        report.rope == "none"
        and "does not say" in report.rope_source
        and "rope is not stated in the file" in report.notes[0]
    )
    of_pr4 = state | {f"blocks.{i}.attn.rotary_emb.freqs": theirs["rotary_freqs"].clone() for i in range(8)}
    save_file(of_pr4, tmp_path / "pr4.safetensors")
    model = TinyMyo.from_published(tmp_path / "pr4.safetensors", modalities={"emg": 6}, n_samples=80)
    assert model.cfg.rope == "token" and not model.load_report.notes
    with torch.no_grad():
        torch.testing.assert_close(by_token(model(theirs["input"])), theirs["output"], **OUTPUT)
    back = model.to_upstream()
    assert set(back) == set(of_pr4) and all(torch.equal(back[name], of_pr4[name]) for name in of_pr4)
