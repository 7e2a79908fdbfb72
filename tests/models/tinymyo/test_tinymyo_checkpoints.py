"""TinyMyo's published files: read completely or refused, and written back bit for bit.

The files are made here in the published layout, from small random weights; test_tinymyo_parity.py has the full size and
outputs of the authors' code.
"""

import pickle
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from emg_lens.errors import EmgLensError
from emg_lens.models import TinyMyo, TinyMyoConfig

D, LAYERS, PATCH = 12, 2, 5
MAP = "patch_embedding.patch_embed.proj.weight"


def published(head: str = "reconstruction", prefix: str = "", **more: torch.Tensor) -> dict[str, torch.Tensor]:
    """Random tensors under the names and in the shapes of docs/tinymyo-model.md §9.3."""
    shapes = {
        "mask_token": (1, 1, D),
        "patch_embedding.patch_embed.proj.weight": (D, 1, 1, PATCH),
        "patch_embedding.patch_embed.proj.bias": (D,),
        "norm.weight": (D,),
        "norm.bias": (D,),
    }
    for layer in range(LAYERS):
        for name, shape in {
            "norm1.weight": (D,), "norm1.bias": (D,), "norm2.weight": (D,), "norm2.bias": (D,),
            "attn.qkv.weight": (3 * D, D), "attn.qkv.bias": (3 * D,),
            "attn.proj.weight": (D, D), "attn.proj.bias": (D,),
            "mlp.fc1.weight": (4 * D, D), "mlp.fc1.bias": (4 * D,), "mlp.fc2.weight": (D, 4 * D), "mlp.fc2.bias": (D,),
        }.items():  # fmt: skip
            shapes[f"blocks.{layer}.{name}"] = shape
    shapes |= {
        "reconstruction": {"model_head.decoder_pred.weight": (PATCH, D), "model_head.decoder_pred.bias": (PATCH,)},
        "concat": {"model_head.classifier.weight": (4, 3 * D), "model_head.classifier.bias": (4,)},
        "mean": {"model_head.classifier.weight": (4, D), "model_head.classifier.bias": (4,)},
    }[head]
    draw = torch.Generator().manual_seed(0)
    made = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()} | more
    return {prefix + name: tensor for name, tensor in made.items()}


HEADS_TAKEN = "n_heads is not stated in the file and was set to 3, as in the published model"


def frequencies() -> dict[str, torch.Tensor]:
    rate = 1.0 / (10000 ** (torch.arange(0, 4, 2).float() / 4))
    return {f"blocks.{layer}.attn.rotary_emb.freqs": rate.clone() for layer in range(LAYERS)}


def load(path: Path, **changes) -> TinyMyo:
    return TinyMyo.from_published(path, **{"n_samples": 20, **changes})


def write(path: Path, state: dict) -> Path:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3, "pytorch-lightning_version": "2.4.0"}, path)
    return path


@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("head", ["reconstruction", "concat", "mean"])
def test_every_kind_of_file_is_read_and_written_back_bit_for_bit(tmp_path, head, suffix, prefix):
    state = published(head)
    model = load(write(tmp_path / f"base{suffix}", published(head, prefix)))
    report = model.load_report
    assert not model.training and report.n_tensors == len(state) and not report.missing + report.unexpected
    assert model.cfg.n_channels == (3 if head == "concat" else 16)
    model.save_published(tmp_path / f"again{suffix}", prefix=prefix)
    again = load_file(tmp_path / "again.safetensors") if suffix == ".safetensors" else None
    again = again or torch.load(tmp_path / "again.ckpt", weights_only=True)["state_dict"]
    assert set(again) == {prefix + name for name in state}
    assert all(torch.equal(again[prefix + name], tensor) for name, tensor in state.items())


def test_rows_of_the_packed_projection_are_queries_keys_values_each_head_by_head(tmp_path):
    state = published()
    model = load(write(tmp_path / "base.safetensors", state))
    packed, bias = state["blocks.1.attn.qkv.weight"], state["blocks.1.attn.qkv.bias"]
    for part, (weight, b) in enumerate(((model.W_Q, model.b_Q), (model.W_K, model.b_K), (model.W_V, model.b_V))):
        for head in range(3):
            rows = slice(part * D + head * 4, part * D + head * 4 + 4)
            assert torch.equal(weight[1, head], packed[rows].T) and torch.equal(b[1, head], bias[rows])
    assert torch.equal(model.W_O[0, 2], state["blocks.0.attn.proj.weight"][:, 8:].T)


def test_what_a_file_says_of_its_positions_decides(tmp_path):
    plain = write(tmp_path / "plain.safetensors", published())
    assert load(plain).cfg.rope == "none" and "rope is not stated" in repr(load(plain).load_report)
    given = load(plain, rope="time")
    assert given.cfg.positions == "rotary_time" and given.load_report.notes == (HEADS_TAKEN,)
    assert not load(plain, rope="time", n_heads=3).load_report.notes
    mean = write(tmp_path / "mean.safetensors", published("mean"))
    assert "16 were assumed" in load(mean, rope="none", n_heads=3).load_report.notes[0]
    assert not load(mean, rope="none", n_heads=3, modalities={"emg": 1}).load_report.notes
    token = write(tmp_path / "token.ckpt", published(**frequencies()))
    assert load(token).cfg.rope == "token" and load(token).load_report.n_tensors == len(published())
    slots = write(tmp_path / "time.ckpt", published(channel_embed=torch.randn(1, 16, D)))
    model = load(slots, modalities={"emg": 7})
    assert model.cfg.rope == "time" and model.cfg.channel_slots == 16
    assert torch.equal(model.W_pos[4 * 3 + 1], torch.load(slots)["state_dict"]["channel_embed"][0, 3])
    assert set(model.to_upstream()) == set(published()) | {"channel_embed"}
    with pytest.raises(
        EmgLensError, match=r"rope='none', and the file has attn.rotary_emb.freqs, which is rope='token'"
    ):
        load(token, rope="none")
    odd = published(**{name: 2 * f for name, f in frequencies().items()})
    with pytest.raises(EmgLensError, match="expected the values for base 10000"):
        load(write(tmp_path / "odd.ckpt", odd))
    with pytest.raises(EmgLensError, match="belong to heads of width 4; expected 2: give n_heads=3"):
        load(token, n_heads=6)
    half = {name: rate.half().float() for name, rate in frequencies().items()}
    assert load(write(tmp_path / "half.ckpt", published(**half))).cfg.rope == "token"


def test_a_folder_of_the_hubs_layout_is_read_by_filename(tmp_path):
    (tmp_path / "UCI_EMG").mkdir()
    (tmp_path / "DB5").mkdir()
    write(tmp_path / "UCI_EMG" / "base.safetensors", published("concat"))
    assert load(tmp_path).cfg.head == "classification"  # the only one
    write(tmp_path / "DB5" / "base.safetensors", published("mean"))
    assert load(tmp_path, filename="DB5/base.safetensors").cfg.fusion == "mean"
    with pytest.raises(EmgLensError, match="give filename=.*DB5/base.safetensors, UCI_EMG/base.safetensors"):
        load(tmp_path)
    with pytest.raises(EmgLensError, match="has no file 'EPN/base.safetensors'; it has DB5"):
        load(tmp_path, filename="EPN/base.safetensors")
    with pytest.raises(EmgLensError, match="for a repository of the hub give filename=... too"):
        load(tmp_path / "nowhere")


def test_a_repository_of_the_hub_is_asked_for_the_file(tmp_path, monkeypatch):
    asked = []

    def fetch(repository, filename, revision):
        asked.append((repository, filename, revision))
        return str(write(tmp_path / "base.safetensors", published()))

    monkeypatch.setattr("emg_lens.models.tinymyo.checkpoints.hf_hub_download", fetch)
    load("PulpBio/TinyMyo", filename="UCI_EMG/base.safetensors", revision="main")
    assert asked == [("PulpBio/TinyMyo", "UCI_EMG/base.safetensors", "main")]

    def fail(*_, **__):
        raise OSError("no route\nto the hub")

    monkeypatch.setattr("emg_lens.models.tinymyo.checkpoints.hf_hub_download", fail)
    with pytest.raises(EmgLensError, match="'a.safetensors' cannot be downloaded from the hub .OSError: no route to"):
        load("PulpBio/TinyMyo", filename="a.safetensors")


def test_a_fresh_head_takes_the_place_of_the_files(tmp_path):
    path = write(tmp_path / "base.safetensors", published())
    model = load(path, head="classification", n_classes=6, modalities={"emg": 5, "acc": 2}, dropout=0.3)
    assert model.load_report.fresh == ("unembed.W_U", "unembed.b_U") and model.cfg.dropout == 0.3
    assert model(torch.zeros(2, 7, 20)).shape == (2, 6)
    assert torch.equal(model.ln_final.w, published()["norm.weight"]) and "fresh" in repr(model.load_report)
    other = load(write(tmp_path / "head.ckpt", published("concat")), head="reconstruction")
    assert other.cfg.n_channels == 16 and not other.load_report.unexpected
    with pytest.raises(EmgLensError, match="n_classes=6 needs a new head: give head='classification' too"):
        load(path, n_classes=6)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (
            lambda s: s.pop("blocks.1.mlp.fc1.bias"),
            {},
            "1 names are missing .blocks.1.mlp.fc1.bias.*strict=False loads",
        ),
        (lambda s: s.update(extra=torch.ones(2)), {}, "1 unexpected .extra"),
        (lambda s: s.update({"norm.bias": torch.ones(3)}), {}, r"norm.bias has shape \[3\]; expected \[12\]"),
        (lambda s: s["norm.bias"].fill_(torch.nan), {}, "norm.bias has NaN or values"),
        (lambda s: s.update({"norm.bias": s["norm.bias"].double().fill_(1e300)}), {}, "so the file is damaged"),
        (lambda s: s.update({"blocks.x.mlp": torch.ones(2)}), {}, "1 unexpected .blocks.x.mlp"),
        (
            lambda s: s.update({MAP: s[MAP][..., :0]}),
            {},
            r"proj.weight has shape \[\d+, 1, 1, 0\]; expected 4 axes",
        ),
        (lambda s: s.update({"norm.bias": torch.ones(D, dtype=torch.int64)}), {}, "norm.bias is torch.int64"),
        (lambda s: s.pop("norm.weight"), {}, r"norm.weight is missing .it has .* and \d+ more.; expected 1"),
        (lambda s: [s.pop(n) for n in list(s) if "blocks.0" in n], {}, r"has the blocks \[1\]; expected 0, 1, 2"),
        (lambda s: [s.pop(n) for n in list(s) if "model_head" in n], {}, "has no heads; expected one of"),
        (lambda s: None, {"modalities": {"emg": 8}}, "its head reads 3 channels, and modalities={'emg': 8} have 8"),
        (lambda s: None, {"n_heads": 5}, "is not a multiple of n_heads=5"),
        (lambda s: None, {"dropuot": 0.1}, "has no setting 'dropuot'"),
        (lambda s: None, {"rope": "head"}, "expected 'none', 'token' or 'time'"),
        (lambda s: None, {"n_samples": 23}, "n_samples=23 is not a multiple of patch_samples=5"),
        (
            lambda s: s.update({"model_head.classifier.weight": torch.ones(4, 13)}),
            {},
            "reads 13 values; expected channels x",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path, change, options, message):
    state = published("concat")
    change(state)
    with pytest.raises(EmgLensError, match=message) as error:
        load(write(tmp_path / "base.ckpt", state), **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_names_with_a_foreign_prefix_are_shown(tmp_path, suffix):
    path = tmp_path / f"base{suffix}"
    foreign = {f"module.net.{name}": tensor for name, tensor in published().items()}
    save_file(foreign, path) if suffix == ".safetensors" else torch.save({"state_dict": foreign}, path)
    with pytest.raises(EmgLensError, match=r"it has module.net\.\S+, .* and \d+ more; rename .* without 'module.net.'"):
        load(path)
    other = {"conv1.weight": torch.ones(2), "fc.bias": torch.ones(2)}
    save_file(other, path) if suffix == ".safetensors" else torch.save(other, path)
    with pytest.raises(EmgLensError, match="it has conv1.weight, fc.bias; is it another model"):
        load(path)


def test_without_strictness_what_is_missing_stands_in_the_report(tmp_path):
    state = published(extra=torch.ones(2))
    del state["norm.bias"]
    model = load(write(tmp_path / "base.ckpt", state), strict=False)
    assert model.load_report.missing == ("norm.bias",) and model.load_report.unexpected == ("extra",)
    assert not model.ln_final.b.any() and "missing     norm.bias" in repr(model.load_report)


class Loud:
    def __reduce__(self):
        return (print, ("run",))


class Settings(dict):
    """What Lightning keeps of a run's settings: an object of a class that whoever reads it need not have."""

    def __reduce__(self):
        return (Settings, (), {"layers": 8, "then": Loud()})

    def __setstate__(self, state):
        sys.stdout.write("run")


class Filled(dict):
    """Its items come one by one, which only torch's own kinds of mapping take."""


@pytest.mark.parametrize(
    ("weird", "message"),
    [
        (lambda w: w.to(torch.float8_e4m3fn), "is torch.float8_e4m3fn"),
        (lambda w: w.to("meta"), "meta tensor"),
        (lambda w: w.to_sparse(), "sparse"),
        (lambda w: torch.nested.nested_tensor([w, w]), "nested"),
        (lambda w: torch.zeros(1).expand(10**5, 10**5), "declares 40000.0 MB and holds 0.0"),
    ],
)
def test_tensors_whose_values_cannot_be_taken_are_one_line(tmp_path, weird, message):
    state = published()
    torch.save({"state_dict": {**state, "norm.weight": weird(state["norm.weight"])}}, tmp_path / "odd.ckpt")
    with pytest.raises(EmgLensError, match=message) as error:
        load(tmp_path / "odd.ckpt")
    assert "norm.weight" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("damage", ["empty", "cut", "noise"])
def test_a_damaged_file_is_one_line(tmp_path, suffix, damage):
    path = write(tmp_path / f"base{suffix}", published())
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "noise": b"\x9f" * 999}[damage])
    with pytest.raises(EmgLensError, match="is damaged or not a weights file") as error:
        load(path)
    assert "\n" not in str(error.value)


def test_settings_beside_the_weights_are_passed_over_and_never_run(tmp_path, capsys):
    content = {"state_dict": published(), "hyper_parameters": Settings(), "callbacks": {tmp_path: Loud()}, "epoch": 3}
    torch.save(content, tmp_path / "a.ckpt")
    bare = load(write(tmp_path / "bare.ckpt", published()))
    for name, tensor in load(tmp_path / "a.ckpt").state_dict().items():
        assert torch.equal(tensor, bare.state_dict()[name])
    torch.save(published(), tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    assert load(tmp_path / "old.ckpt").load_report.n_tensors == bare.load_report.n_tensors
    assert "run" not in capsys.readouterr().out


def test_code_in_a_file_is_never_run_and_other_content_is_refused(tmp_path, capsys):
    torch.save({"state_dict": published(), "hyper_parameters": Filled(a=1)}, tmp_path / "a.ckpt")
    with pytest.raises(EmgLensError, match="^.*a.ckpt holds Python objects besides its weights that cannot") as error:
        load(tmp_path / "a.ckpt")
    assert "weights_only" not in str(error.value) and "torch.load" not in str(error.value)
    assert "expected a file of tensors only" in str(error.value) and "damaged" not in str(error.value)
    torch.save({"state_dict": {"norm.weight": Loud()}}, tmp_path / "weights.ckpt")
    with pytest.raises(EmgLensError, match="holds no tensors by name"):
        load(tmp_path / "weights.ckpt")
    (tmp_path / "b.ckpt").write_bytes(pickle.dumps(Loud()))
    with pytest.raises(EmgLensError, match="b.ckpt"):
        load(tmp_path / "b.ckpt")
    with zipfile.ZipFile(tmp_path / "odd.ckpt", "w") as archive:  # an instruction that pickles do not have
        archive.writestr("archive/data.pkl", b"\x80\x02\xff.")
        archive.writestr("archive/version", "3\n")
    with pytest.raises(EmgLensError, match="is damaged or not a weights file"):
        load(tmp_path / "odd.ckpt")
    for content in ([1, 2], {"state_dict": {}}, {"state_dict": {"norm.weight": "x"}}, torch.ones(3)):
        torch.save(content, tmp_path / "c.ckpt")
        with pytest.raises(EmgLensError, match="holds no tensors by name"):
            load(tmp_path / "c.ckpt")
    assert "run" not in capsys.readouterr().out
    with pytest.raises(EmgLensError, match="expected a name that ends in one of .safetensors"):
        load(write(tmp_path / "d.ckpt", published())).save_published(tmp_path / "e.bin")


def test_half_precision_is_widened_and_said(tmp_path):
    state = {name: tensor.bfloat16() for name, tensor in published().items()}
    report = load(write(tmp_path / "half.safetensors", state)).load_report
    assert report.notes[0] == "weights were torch.bfloat16 and are torch.float32 now"


def test_the_report_says_the_size_beside_the_published(tmp_path):
    model = TinyMyo(TinyMyoConfig(modalities={"emg": 16}, n_samples=20, n_classes=0, head="reconstruction"))
    model.save_published(tmp_path / "full.safetensors")
    report = repr(TinyMyo.from_published(tmp_path / "full.safetensors").load_report)
    assert "3,567,380; the encoder's 3,563,520 (as published)" in report and "scaled to [-1, 1]" in report
    assert "rope        'token'" in report
    small = repr(load(write(tmp_path / "small.ckpt", published())).load_report)
    assert "published: 3,563,520" in small
