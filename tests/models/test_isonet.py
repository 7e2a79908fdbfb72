"""IsoNet: its two heads, its loss, its size on paper."""

import json

import pytest
import torch
import torch.nn.functional as F

from emg_lens.data import Batch
from emg_lens.hooks import unimodal
from emg_lens.models.encoder import count_parameters
from emg_lens.models.isonet import IsoNet, IsoNetConfig
from emg_lens.sweeps import audit
from emg_lens.training import Classification, TrainingRecipe
from emg_lens.training.packing import AUXILIARY, Group, parameter_groups


def make(**changes) -> IsoNet:
    settings = dict(
        modalities={"emg": 3, "acc": 2}, n_samples=8, n_classes=4, d_model=16, n_heads=2, n_layers=2, d_mlp=8
    )
    torch.manual_seed(0)
    return IsoNet(IsoNetConfig(**{**settings, **changes})).eval()


def test_the_defaults_are_the_paper_s():
    cfg = IsoNetConfig(modalities={"emg": 12, "acc": 36}, n_samples=50, n_classes=17)
    assert (cfg.d_model, cfg.n_heads, cfg.n_layers, cfg.d_mlp) == (512, 8, 5, 128)
    assert (cfg.norm, cfg.readout, cfg.embedding, cfg.positions, cfg.act_fn) == (
        "post",
        "cls",
        "dedicated",
        "learned",
        "gelu",
    )
    assert cfg.model_name == "isonet" and cfg.n_ctx == 49
    with pytest.raises(ValueError, match="cls_token=True, readout='none'; IsoNet needs cls_token=True"):
        IsoNetConfig(modalities={"emg": 2}, n_samples=5, n_classes=0, readout="none")


def test_a_backbone_of_five_layers_has_5_92_million_parameters():
    """IsoNet paper, §3: 5.92 M for 5 layers of 512/128; 49.2 M to embed 48 channels of 2000 samples."""
    with torch.device("meta"):
        model = IsoNet(IsoNetConfig(modalities={"emg": 12, "acc": 36}, n_samples=2000, n_classes=17))
    layer = 4 * (512 * 512 + 512) + 2 * 512 * 128 + 128 + 512 + 2 * 2 * 512
    assert count_parameters(model, ["blocks"]) == 5 * layer == 5_921_920
    assert count_parameters(model, ["embed"]) == 48 * (2000 + 1) * 512 + 512 == 49_177_088
    assert count_parameters(model) - count_parameters(model, ["blocks", "embed"]) == 49 * 512 + 2 * (512 + 1) * 17


def test_logits_are_those_of_cls_and_with_both_also_of_the_mean_of_the_others():
    model = make()
    x = model.example_input(5)
    resid = model(x, stop_at_layer=2)
    cls_logits, mean_logits = model(x, return_type="both")
    torch.testing.assert_close(cls_logits, model(x))
    torch.testing.assert_close(cls_logits, resid[:, 0] @ model.unembed.W_U + model.unembed.b_U)
    pooled = torch.stack([resid[:, p] for p in range(1, 6)]).mean(0)
    torch.testing.assert_close(mean_logits, pooled @ model.unembed_mean.W_U + model.unembed_mean.b_U)
    assert model.readout_positions.tolist() == [0]


def test_one_shared_head_reads_both_vectors():
    model = make(shared_head=True)
    assert not hasattr(model, "unembed_mean")
    resid = model(model.example_input(3), stop_at_layer=2)
    _, mean_logits = model(model.example_input(3), return_type="both")
    torch.testing.assert_close(mean_logits, model.unembed(resid[:, 1:].mean(1)))
    assert count_parameters(make()) - count_parameters(model) == (16 + 1) * 4


def test_other_return_types_are_those_of_every_encoder():
    model = make()
    x = model.example_input(2)
    assert model(x, return_type=None) is None
    with pytest.raises(ValueError, match="return_type='all'"):
        model(x, return_type="all")
    loss = model(x, return_type="loss", labels=torch.tensor([1, 3]))
    torch.testing.assert_close(loss, F.cross_entropy(model(x), torch.tensor([1, 3])))


@pytest.mark.parametrize(("weight", "silent"), [(0.0, "unembed"), (1.0, "unembed_mean")])
def test_at_either_end_one_head_learns_nothing(weight, silent):
    model = make()
    batch = Batch(model.example_input(4), torch.tensor([0, 1, 2, 3]))
    Classification().batch_losses(model, batch, weight, TrainingRecipe(), torch.Generator())[0].sum().backward()
    heads = {"unembed": model.unembed, "unembed_mean": model.unembed_mean}
    silent_gradient = heads.pop(silent).W_U.grad
    assert silent_gradient is None or not silent_gradient.any()
    assert next(iter(heads.values())).W_U.grad.abs().sum() > 0


def test_with_cls_alone_nothing_else_of_the_last_layer_is_trained():
    """The causal bottleneck of paper §3: after the last layer the other rows reach no logit."""
    model = make()
    resid = model(model.example_input(2), stop_at_layer=2)
    resid.retain_grad()
    cls_logits, _ = model.head(resid, "both")
    cls_logits.sum().backward()
    assert resid.grad[:, 0].any() and not resid.grad[:, 1:].any()


@pytest.mark.parametrize("shared", [False, True])
def test_saving_and_loading_gives_the_same_model(tmp_path, shared):
    model = make(shared_head=shared, modalities={"zeta": 2, "acc": 3}, class_names=["a", "b", "c", "d"])
    model.save_pretrained(tmp_path)
    again = IsoNet.from_pretrained(tmp_path)
    x = model.example_input(3)
    for ours, theirs in zip(model(x, return_type="both"), again(x, return_type="both"), strict=True):
        assert torch.equal(ours, theirs)
    assert again.cfg == model.cfg and type(again.cfg) is IsoNetConfig and again.layout == model.layout
    assert json.loads((tmp_path / "config.json").read_text())["shared_head"] is shared


def test_weights_in_memory_order_of_their_product_train_alike_with_every_adamw():
    """The kernels of fused AdamW walk memory; weight, gradient and moments must lie alike there."""
    results = []
    for kind in ({"fused": True}, {"foreach": True}, {"foreach": False}):
        model = make().train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, **kind)
        for _ in range(3):
            optimizer.zero_grad(set_to_none=True)
            for logits in model(model.example_input(4), return_type="both"):
                F.cross_entropy(logits, torch.tensor([0, 1, 2, 3])).mul(0.5).backward(retain_graph=True)
            optimizer.step()
        assert model.blocks[0].attn.W_Q.grad.stride() == model.blocks[0].attn.W_Q.stride()
        results.append(model.eval()(model.example_input(4)))
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(results[0], results[2], atol=1e-5, rtol=1e-4)


def test_tokens_of_time_are_a_linear_map_of_all_channels_of_a_modality():
    """docs/isonet-protocol.md §4.9, item 16: a patch of a modality as a token."""
    model = make(tokens="time", patch_samples=4)
    assert model.layout.names == ("cls", "emg.p0", "emg.p1", "acc.p0", "acc.p1")
    x = model.example_input(2)
    expected = sum(x[:, c, 4:] @ model.embed.W_E[c] + model.embed.b_E[c] for c in range(3))
    torch.testing.assert_close(model.embed(x)[:, 2], expected)


def test_with_the_mean_as_readout_the_heads_change_places_and_the_last_layer_counts():
    """docs/isonet-protocol.md §4.4: L5 of Table 3 is a structural null because nothing but CLS is read."""
    model, first = make(readout="mean"), make()
    x = model.example_input(5)
    resid = model(x, stop_at_layer=2)
    mean_logits, cls_logits = model(x, return_type="both")
    torch.testing.assert_close(mean_logits, model(x))
    torch.testing.assert_close(mean_logits, resid[:, 1:].mean(1) @ model.unembed.W_U + model.unembed.b_U)
    torch.testing.assert_close(cls_logits, resid[:, 0] @ model.unembed_cls.W_U + model.unembed_cls.b_U)
    assert [name for name in parameter_groups(model)[Group(AUXILIARY)]] == ["unembed_cls.W_U", "unembed_cls.b_U"]
    last = unimodal().at(layers=1)
    assert audit(first, last)["structural_null"].item() and not audit(model, last)["structural_null"].item()
