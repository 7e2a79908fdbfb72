"""Parts of a block that round their activations, and attention with softmax in whole numbers.

An object of the plain class becomes one of these by assignment to `__class__`, so parameters, hook points and their
names stay the same. Rounding treats each position by itself, so attention edges remain the only exchange between them.

The probe that looks for an intervention point changes a token and compares outputs. Rounding can hide such a change, so
the parts do not round while it runs.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from emg_lens.analysis.quantisation.grids import ActivationGrid
from emg_lens.analysis.quantisation.integer_softmax import IntegerSoftmax
from emg_lens.hooks.hook_points import probing
from emg_lens.models.attention import Attention
from emg_lens.models.components import MLP, LayerNorm
from emg_lens.models.dropout import drop

Grids = dict[str, ActivationGrid]


class QuantisedAttention(Attention):
    """Attention that rounds queries, keys, values (also after rotation) and z before their hooks.

    Attributes:
        grids: The grids by name; empty = activations are not rounded.
        integer_softmax: The softmax in whole numbers; None = torch's.
    """

    mixes_only_by_attention = True
    sites = ("q", "k", "v", "rot_q", "rot_k", "z")

    grids: Grids
    integer_softmax: IntegerSoftmax | None

    def project(
        self,
        x: Tensor,
        key_input: Tensor | None = None,
        value_input: Tensor | None = None,
        tables: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As in the base class, with rounding before each hook."""
        if not self.grids:
            return super().project(x, key_input, value_input, tables)
        inputs = {"q": x, "k": x if key_input is None else key_input, "v": x if value_input is None else value_input}
        q, k, v = (
            getattr(self, f"hook_{name}")(self.grids[name](self._projected(name.upper(), given)))
            for name, given in inputs.items()
        )
        if self.rotary is not None:
            q = self.hook_rot_q(self.grids["rot_q"](self.rotary(q, tables)))
            k = self.hook_rot_k(self.grids["rot_k"](self.rotary(k, tables)))
        return q, k, v

    def _projected(self, name: str, x: Tensor) -> Float[Tensor, "batch pos head d_head"]:
        weight, bias = getattr(self, f"W_{name}"), getattr(self, f"b_{name}")
        form = "bphd,hde->bphe" if x.ndim == 4 else "bpd,hde->bphe"
        return torch.einsum(form, x, weight) + bias

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "batch pos head d_head"]:
        """As in the base class, and round the result."""
        z = super().mix(q, k, v)
        return self.grids["z"](z) if self.grids else z

    def normalise(self, scores: Float[Tensor, "batch head dest src"]) -> Float[Tensor, "batch head dest src"]:
        """Turn scores into attention in whole numbers, or by softmax."""
        if self.integer_softmax is None or probing.get():
            return super().normalise(scores)
        return self.integer_softmax(scores)


class QuantisedLayerNorm(LayerNorm):
    """Layer normalisation whose output is rounded."""

    mixes_only_by_attention = True
    sites = ("normalized",)

    grids: Grids

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """As in the base class, and round the result."""
        return self.grids["normalized"](super().forward(x))


class QuantisedMLP(MLP):
    """MLP that rounds its hidden activations before `hook_post`."""

    mixes_only_by_attention = True
    sites = ("post",)

    grids: Grids

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """As in the base class, with rounding."""
        pre = self.hook_pre(F.linear(x, self.W_in.T, self.b_in))
        post = self.hook_post(self.grids["post"](self.act_fn(pre)))
        return F.linear(drop(post, self.dropout if self.training else 0.0), self.W_out.T, self.b_out)


QUANTISED = {Attention: QuantisedAttention, LayerNorm: QuantisedLayerNorm, MLP: QuantisedMLP}
"""The plain class of a part and the class that rounds."""
