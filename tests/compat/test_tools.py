"""TransformerLens's other tools on our encoders: lenses, singular vectors, subspaces, training, protocols."""

import copy

import pytest
import torch
from encoders import CLASSES, make, needs_4, only_3, pair
from transformer_lens import FactoredMatrix, HookedRootModule, SVDInterpreter
from transformer_lens.utilities import Slice

from emg_lens.models.isonet import IsoNet, IsoNetConfig

NORMS = ["pre", "post"]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("unit", ["component", "head"])
def test_direct_logit_attribution_adds_up_to_the_logit_difference(norm, unit):
    from transformer_lens.tools.analysis import direct_logit_attribution

    model = make(norm=norm)
    x, _ = pair(model)
    found = direct_logit_attribution(model, x, "fist", "rest", unit=unit, pos=0)
    assert found.attribution.shape == (len(found.labels), 3)
    logits = model(x)
    constant = model.b_U + (model.ln_final.b @ model.W_U if norm == "pre" else 0)
    torch.testing.assert_close(found.attribution.sum(0) + constant[1] - constant[0], logits[:, 1] - logits[:, 0])
    assert found.top(1)[0][0] in found.labels


@pytest.mark.parametrize("norm", NORMS)
def test_direct_logit_attribution_by_layer_ends_at_the_logit(norm):
    from transformer_lens.tools.analysis import direct_logit_attribution

    model = make(norm=norm)
    x, _ = pair(model)
    found = direct_logit_attribution(model, answer_tokens="wave", unit="layer", pos=0, cache=model.run_with_cache(x)[1])
    constant = model.b_U[4] + (model.ln_final.b @ model.W_U[:, 4] if norm == "pre" else 0)
    assert found.labels[-1] == "final_post"
    torch.testing.assert_close(found.attribution[-1] + constant, model(x)[:, 4])


@needs_4
@pytest.mark.parametrize("norm", NORMS)
def test_logit_readout_reads_vectors_as_the_model_does(norm):
    from transformer_lens.tools.analysis import logit_readout

    model = make(norm=norm)
    x, _ = pair(model)
    resid = model(x, stop_at_layer=3)
    torch.testing.assert_close(logit_readout(model, resid[:, 0]).values, model(x).detach())
    one = logit_readout(model, resid[:, 0], targets="pinch")
    torch.testing.assert_close(one.values[:, 0], model(x)[:, 2].detach())
    with pytest.raises(KeyError, match="unknown class 'clap'"):
        logit_readout(model, resid[:, 0], targets="clap")


@needs_4
@pytest.mark.parametrize("norm", NORMS)
def test_the_logit_lens_on_a_cache_ends_at_the_logits_and_shows_what_each_layer_holds(norm):
    from transformer_lens.tools.analysis import logit_lens

    model = make(norm=norm)
    x, _ = pair(model)
    _, cache = model.run_with_cache(x)
    lens = logit_lens(cache, positions=0, incl_mid=True)
    assert lens.labels[0] == "0_pre" and lens.labels[-1] == "final_post" and len(lens.labels) == 7
    torch.testing.assert_close(lens.values[-1], model(x).detach())
    state = cache["resid_pre", 2][:, 0]
    torch.testing.assert_close(lens.values[4], model.unembed(model.ln_final(state)).detach())
    ranks = logit_lens(cache, positions=0, targets="fist").rank_trajectory("fist")
    assert torch.equal(ranks[-1], (model(x) > model(x)[:, 1:2]).sum(-1))
    torch.testing.assert_close(cache.logit_lens(positions=0).values[-1], model(x).detach())


@needs_4
def test_the_logit_lens_run_on_an_input_says_that_pooled_logits_are_not_one_a_position():
    from transformer_lens.tools.analysis import logit_lens

    model = make()
    with (
        model.handles(model.example_input(2)) as tokens,
        pytest.raises(ValueError, match="its readout is not that path"),
    ):
        logit_lens(model, tokens)


@pytest.mark.parametrize("norm", NORMS)
def test_singular_vectors_of_heads_and_mlps(norm):
    """For an MLP's input map: with the gain of the norm before it, without the gain of a norm after it."""
    model = make(norm=norm)
    found = SVDInterpreter(model)
    W_U = model.W_U.detach()
    ov = (model.blocks[1].attn.W_V[0] @ model.blocks[1].attn.W_O[0]).detach()
    w_in = model.W_in[1].detach().T * (model.blocks[1].ln2.w.detach() if norm == "pre" else 1)
    for kind, matrix, head in (("OV", ov, 0), ("w_in", w_in, None), ("w_out", model.W_out[1].detach(), None)):
        vectors = found.get_singular_vectors(kind, 1, num_vectors=3, head_index=head)
        expected = W_U.T @ torch.linalg.svd(matrix).Vh[:3].T
        assert vectors.shape == (5, 1, 3)
        torch.testing.assert_close(vectors[:, 0].abs(), expected.abs(), atol=1e-4, rtol=1e-4)


def test_factored_matrices_are_transformerlens_s():
    attn = make().blocks[0].attn
    assert isinstance(attn.QK, FactoredMatrix) and isinstance(attn.OV, FactoredMatrix)
    torch.testing.assert_close(attn.OV[1].AB, attn.W_V[1] @ attn.W_O[1])


def test_head_subspaces_are_compared():
    from transformer_lens.tools.analysis import (
        attention_head_subspace_affinity,
        orthonormal_subspace,
        projection_kernel,
    )

    model = make()
    found = attention_head_subspace_affinity(model, target_role="Q")
    assert found.scores.shape == (3, 2, 3, 2)
    a = torch.linalg.qr(model.blocks[0].attn.W_O[1].detach().T).Q
    b = torch.linalg.qr(model.blocks[2].attn.W_Q[0].detach()).Q
    torch.testing.assert_close(found.scores[0, 1, 2, 0], (a.T @ b).square().sum())
    kernel = projection_kernel(orthonormal_subspace(a), orthonormal_subspace(b))
    torch.testing.assert_close(kernel.score, found.scores[0, 1, 2, 0])
    assert model.blocks_with("attn") == list(enumerate(model.blocks)) and model.blocks_with("ssm") == []


class Trials(torch.utils.data.Dataset):
    """Input for `tools.training.train`: items with tokens."""

    def __init__(self, tokens):
        self.tokens = tokens

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, i):
        return {"tokens": self.tokens[i]}


@needs_4
@pytest.mark.parametrize("kind", ["encoder", "isonet"])
def test_transformerlens_s_training_loop_trains(kind):
    from transformer_lens.tools.training import TrainConfig, train

    model = make() if kind == "encoder" else isonet()
    x = model.example_input(24)
    y = (x[:, 0].mean(1) > 0).long()
    before = model(x, return_type="loss", labels=y).item()
    with model.handles(x, y) as tokens:
        config = TrainConfig(num_epochs=30, batch_size=8, lr=5e-3, device="cpu", print_every=None)
        train(model, config, Trials(tokens))
    model.eval()
    assert model(x, return_type="loss", labels=y).item() < 0.5 * before


def isonet():
    torch.manual_seed(0)
    settings = dict(d_model=16, n_heads=2, n_layers=2, d_mlp=8)
    return IsoNet(IsoNetConfig(modalities={"emg": 4, "acc": 2}, n_samples=6, n_classes=5, **settings)).eval()


@needs_4
def test_the_protocols_of_transformerlens_4_hold():
    from transformer_lens.model_protocol import (
        TrainableTransformerLensModel,
        TransformerLensModel,
        TransformerLensModelWithWeights,
    )

    for model in (make(), make(norm="post"), isonet()):
        assert isinstance(model, HookedRootModule)
        for protocol in (TransformerLensModel, TransformerLensModelWithWeights, TrainableTransformerLensModel):
            assert isinstance(model, protocol)


def test_cfg_has_the_fields_that_utilities_read():
    cfg = make().cfg
    names = """n_layers n_heads d_head d_model d_mlp n_ctx d_vocab d_vocab_out device dtype attn_only act_fn model_name
        normalization_type n_key_value_heads final_rms parallel_attn_mlp attention_dir use_attn_result
        use_split_qkv_input use_hook_mlp_in use_attn_in"""
    assert [name for name in names.split() if not hasattr(cfg, name)] == []


@needs_4
@pytest.mark.parametrize("norm", NORMS)
def test_an_untrained_copy_has_fresh_weights_everywhere(norm):
    from transformer_lens.tools.analysis import reinitialized

    model = make(norm=norm)
    before = copy.deepcopy(model.state_dict())
    fresh = reinitialized(model, seed=3)
    assert all(torch.equal(before[n], p) for n, p in model.state_dict().items())
    assert all(not torch.equal(before[n], p) for n, p in fresh.named_parameters())
    assert fresh.run_with_cache(fresh.example_input())[1]["pattern", 0].shape == (1, 2, 7, 7)
    model.set_use_attn_result(True)
    assert not fresh.cfg.use_attn_result


@needs_4
@pytest.mark.parametrize("norm", NORMS)
def test_interchange_of_a_whole_subspace_at_cls_gives_the_source_s_logits(norm):
    from transformer_lens.tools.analysis import interchange

    model = make(norm=norm)
    base, source = pair(model)
    name, cls = "blocks.2.hook_resid_post", torch.zeros(3, dtype=torch.long)
    swap = interchange.SubspaceInterchange(torch.eye(12))
    with torch.no_grad():
        taken = interchange.collect_activations(model, name, source, model, positions=cls)
        torch.testing.assert_close(taken, model.run_with_cache(source)[1][name][:, 0])
        out = interchange.run_with_intervention(model, name, swap, base, taken, model, positions=cls)
        torch.testing.assert_close(out, model(source), atol=1e-5, rtol=1e-4)


@only_3
def test_svd_circuits_of_transformerlens_3_decompose_a_head():
    from transformer_lens.tools.analysis.svd_circuits import decompose_head

    model = make()
    ov = decompose_head(model, 1, 0).OV
    torch.testing.assert_close(ov.U @ ov.S.diag() @ ov.V.T, (model.W_V[1, 0] @ model.W_O[1, 0]).detach())


def test_labels_and_positions_have_names():
    model = make()
    assert [model.to_single_token(name) for name in CLASSES] == [0, 1, 2, 3, 4]
    torch.testing.assert_close(model.tokens_to_residual_directions(["fist", 0]), model.W_U.T[[1, 0]])
    assert model.tokens_to_residual_directions(torch.tensor([[0, 1]])).shape == (1, 2, 12)
    assert model.all_head_labels()[:3] == ["L0H0", "L0H1", "L1H0"]
    assert model.run_with_cache(model.example_input(), pos_slice=Slice(0))[1]["embed"].shape == (1, 12)
