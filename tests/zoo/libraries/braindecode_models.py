"""Architectures of braindecode."""

from functools import partial
from typing import Any

from zoo.libraries.architecture import Architecture, normal


def _model(kind: str, **sizes: Any) -> Any:
    import braindecode.models

    return getattr(braindecode.models, kind)(**sizes)


def _of(
    kind: str, n_chans: int = 4, n_times: int = 400, sfreq: float = 100, n_outputs: int = 3, **sizes: Any
) -> Architecture:
    shape = {"n_chans": n_chans, "n_times": n_times, "sfreq": sfreq, "n_outputs": n_outputs}
    return Architecture(
        partial(_model, kind, **shape, **sizes), normal(2, n_chans, n_times), heads_first=kind == "ATCNet"
    )


def _located(n_chans: int = 4) -> list[dict[str, Any]]:
    names = ["C3", "C4", "Cz", "Fz"][:n_chans]
    return [
        {"ch_name": name, "loc": [0.01 * i, 0.02 * i, 0.03, *[0.0] * 9], "kind": 2, "coil_type": 1}
        for i, name in enumerate(names, 1)
    ]


MODELS = {
    "ATCNet": _of("ATCNet", n_times=1000, sfreq=250, n_windows=2, tcn_depth=1),
    "AttnSleep": _of("AttnSleep", n_chans=1, n_times=3000, sfreq=100, d_model=80, d_ff=32),
    "AttentionBaseNet": _of("AttentionBaseNet", n_times=1000, attention_mode="se"),
    "AttentionBaseNet, CAT": _of("AttentionBaseNet", n_times=1000, attention_mode="cat"),
    "BIOT": _of("BIOT", embed_dim=32, num_heads=4, num_layers=2, n_times=400, sfreq=200),
    "BENDR": _of(
        "BENDR", n_times=600, encoder_h=16, contextualizer_hidden=32, transformer_layers=2, transformer_heads=2
    ),
    "CBraMod": _of("CBraMod", n_times=400, sfreq=200, patch_size=200, dim_feedforward=32, n_layer=2, nhead=4),
    "CodeBrain": _of(
        "CodeBrain", n_times=400, sfreq=200, num_res_layers=1, codebook_size_t=8, codebook_size_f=8, s4_d_state=4
    ),
    "CTNet": _of("CTNet", n_times=400, embed_dim=16, num_layers=2, num_heads=4, n_filters_time=8),
    "DANCE": _of(
        "DANCE",
        n_queries=6,
        n_virtual_channels=8,
        fourier_emb_dim=32,
        embed_dim=16,
        conv_hidden=16,
        conv_depth=2,
        conv_initial_linear=16,
        num_latents=6,
        perceiver_depth=2,
        cross_dim_head=8,
        latent_dim_head=8,
        decoder_dim=16,
        decoder_depth=2,
        decoder_heads=2,
        use_channel_merger=False,
    ),
    "EEGConformer": _of("EEGConformer", n_times=400, num_layers=2, num_heads=4, n_filters_time=16),
    "EEGDINO": _of("EEGDINO", n_times=400, sfreq=200, n_layer=2, nhead=4, dim_feedforward=32),
    "EEGPT": _of(
        "EEGPT",
        n_times=256,
        embed_num=2,
        embed_dim=16,
        depth=2,
        num_heads=2,
        chan_proj_type="none",
        chs_info=_located(),
    ),
    "EMG2QwertyNet": Architecture(partial(_model, "EMG2QwertyNet"), normal(2, 32, 4000)),
    "Labram": Architecture(
        partial(
            _model, "Labram", n_chans=4, n_times=400, sfreq=200, n_outputs=3, num_layers=2, num_heads=4, embed_dim=200
        ),
        lambda: {"x": normal(2, 4, 400)(), "ch_names": ["C3", "C4", "CZ", "FZ"]},
    ),
    "LUNA": _of("LUNA", n_times=400, depth=2, embed_dim=16, num_heads=2, chs_info=_located()),
    "MEDFormer": _of(
        "MEDFormer", n_times=64, embed_dim=16, num_heads=2, num_layers=2, dim_feedforward=32, patch_len_list=[4, 8]
    ),
    "MSVTNet": _of("MSVTNet", n_times=400, num_heads=2, num_layers=2, n_filters_list=(4, 4, 4, 4)),
    "MVPFormer": _of(
        "MVPFormer", n_times=400, segment_len=100, d_model=16, n_layers=2, n_heads=4, n_head_kv=2, d_inner=32
    ),
    "PBT": _of("PBT", n_times=256, d_input=64, embed_dim=16, num_layers=2, num_heads=2),
    "SignalJEPA": _of(
        "SignalJEPA",
        n_times=400,
        transformer__d_model=64,
        transformer__num_encoder_layers=2,
        transformer__num_decoder_layers=1,
        transformer__nhead=2,
        chs_info=_located(),
    ),
    "SignalJEPA, pre-local": _of(
        "SignalJEPA_PreLocal",
        n_times=400,
        transformer__d_model=64,
        transformer__num_encoder_layers=2,
        transformer__num_decoder_layers=1,
        transformer__nhead=2,
    ),
    "STEEGFormer": _of("STEEGFormer", n_times=128, embed_dim=16, depth=2, num_heads=2, chan_pos_idx=[0, 1, 2, 3]),
    "TCFormer": _of("TCFormer", n_times=1000, sfreq=250),
    "ZUNA": _of(
        "ZUNA",
        n_times=128,
        sfreq=256,
        dim=16,
        n_layers=2,
        n_heads=2,
        head_dim=8,
        latent_dim=8,
        multiple_of=16,
        chs_info=_located(),
    ),
    "MetaNeuromotorHand": Architecture(
        partial(
            _model,
            "MetaNeuromotorHand",
            conformer_input_dim=16,
            conformer_ffn_dim=32,
            conformer_num_layers=2,
            conformer_stride=(1, 1),
            conformer_attn_window_size=(4, 4),
            conformer_num_heads=2,
        ),
        normal(2, 16, 4000),
    ),
    "VEMG2Pose": Architecture(
        partial(
            _model,
            "VEMG2Pose",
            n_chans=16,
            n_outputs=20,
            sfreq=2000,
            n_times=4000,
            encoder_channels=16,
            feature_dim=16,
            hidden_size=16,
            lstm_layers=1,
        ),
        normal(2, 16, 4000),
    ),
    "SSTDPN": _of("SSTDPN", n_times=1000, sfreq=250),
    "EEGNet": _of("EEGNet"),
    "USleep": _of("USleep", n_times=3000),
}
