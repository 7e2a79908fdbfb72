"""`ActivationCache` for post-LN encoders, in which the residual stream is not a plain sum.

The output of a component passes every norm between writing and reading. With the scales of this run a LayerNorm is
linear, so the parts sum to the stream exactly. TransformerLens's own methods would add outputs that passed different
norms, and would use the last stream before its norm, without an error.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from emg_lens.lens.cache import BiosignalCache, Selection, Stack, as_slice

Sublayer = Literal["attn", "mlp"]
Site = tuple[int, Sublayer]
"""A writer to the residual stream: layer and sub-layer."""

SUBLAYERS: tuple[Sublayer, ...] = ("attn", "mlp")
NORM_AFTER = {"attn": "ln1", "mlp": "ln2"}


class PostNormCache(BiosignalCache):
    """Activations of one run of a post-LN encoder.

    In a post-LN model the stream that is read is already normalised: attention of layer l reads
    `blocks.l.hook_resid_pre`, its MLP `hook_normalized_resid_mid`, the unembedding the last
    `hook_normalized_resid_post`. The parts add up to these. The offsets of the norms are one more part, `"norm_bias"`.
    `apply_ln` changes nothing.
    """

    def apply_ln_to_stack(
        self,
        residual_stack: Stack,
        layer: int | None = None,  # noqa: ARG002
        mlp_input: bool = False,  # noqa: ARG002
        pos_slice: Selection = None,  # noqa: ARG002
        batch_slice: Selection = None,
        has_batch_dim: bool = True,
        recompute_ln: bool = False,  # noqa: ARG002
    ) -> Float[Tensor, "component *chosen d_model"]:
        """Return the stack itself (for the trials in `batch_slice`), which is normalised already."""
        return as_slice(batch_slice).apply(residual_stack, dim=1) if has_batch_dim else residual_stack

    def accumulated_resid(
        self,
        layer: int | None = None,
        incl_mid: bool = False,
        apply_ln: bool = False,  # noqa: ARG002
        pos_slice: Selection = None,
        mlp_input: bool = False,
        return_labels: bool = False,
    ) -> Any:
        """Return the stream that attention of each layer (with `incl_mid`, also each MLP) and then `layer` reads."""
        depth = self.depth(layer, mlp_input)
        streams, labels = [], []
        for at in range(depth + 1):
            streams.append(self._stream(at, False, pos_slice))
            labels.append("final_post" if at == self.model.cfg.n_layers else f"{at}_pre")
            if (incl_mid and at < depth) or (mlp_input and at == depth):
                streams.append(self._stream(at, True, pos_slice))
                labels.append(f"{at}_mid")
        return _answer(torch.stack(streams), labels, return_labels)

    def decompose_resid(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        mode: Literal["all", "mlp", "attn"] = "all",
        apply_ln: bool = False,  # noqa: ARG002
        pos_slice: Selection = None,
        incl_embeds: bool = True,
        return_labels: bool = False,
    ) -> Any:
        """Compute what each sub-layer adds to the input of `layer`; in mode "all" they and `"norm_bias"` sum to it."""
        sites = self._sites(self.depth(layer, mlp_input), mlp_input)
        parts, labels = self._embeds(sites, pos_slice) if incl_embeds else ([], [])
        outputs, names = self._sublayers(sites, pos_slice, SUBLAYERS if mode == "all" else (mode,))
        parts.append(outputs)
        labels += names
        if mode == "all" and sites:
            parts.append(self._offsets(sites, pos_slice))
            labels.append("norm_bias")
        return _answer(torch.cat(parts), labels, return_labels)

    def stack_head_results(
        self,
        layer: int | None = -1,
        return_labels: bool = False,
        incl_remainder: bool = False,
        pos_slice: Selection = None,
        apply_ln: bool = False,  # noqa: ARG002
    ) -> Any:
        """Compute what each head below `layer` adds to its input, and with `incl_remainder` the rest of it."""
        depth = self.depth(layer)
        stack, labels = self._all_heads(self._sites(depth), pos_slice)
        if incl_remainder:
            stack, labels = self._with_remainder(stack, labels, depth, False, pos_slice)
        return _answer(stack, labels, return_labels)

    def stack_neuron_results(
        self,
        layer: int | None,
        pos_slice: Selection = None,
        neuron_slice: Selection = None,
        return_labels: bool = False,
        incl_remainder: bool = False,
        apply_ln: bool = False,  # noqa: ARG002
        project_output_onto: Tensor | None = None,
        mlp_input: bool = False,
    ) -> Any:
        """Compute what each neuron below `layer` adds to its input, and with `incl_remainder` the rest of it."""
        depth = self.depth(layer, mlp_input)
        stack, labels = self._all_neurons(self._sites(depth, mlp_input), pos_slice, neuron_slice)
        if incl_remainder:
            stack, labels = self._with_remainder(stack, labels, depth, mlp_input, pos_slice)
        return _answer(stack if project_output_onto is None else stack @ project_output_onto, labels, return_labels)

    def get_full_resid_decomposition(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        expand_neurons: bool = True,
        apply_ln: bool = False,  # noqa: ARG002
        pos_slice: Selection = None,
        return_labels: bool = False,
        project_output_onto: Tensor | None = None,
    ) -> Any:
        """Decompose the input of `layer` into heads, neurons (or MLPs), embeddings, and all biases and offsets."""
        sites = self._sites(self.depth(layer, mlp_input), mlp_input)
        heads, labels = self._all_heads(sites, pos_slice)
        if expand_neurons:
            mlps, names = self._all_neurons(sites, pos_slice, None)
            biases = self._offsets(sites, pos_slice, SUBLAYERS)
        else:
            mlps, names = self._sublayers(sites, pos_slice, ("mlp",))
            biases = self._offsets(sites, pos_slice, ("attn",))
        embeds, embed_names = self._embeds(sites, pos_slice)
        stack = torch.cat([heads, mlps, *embeds, biases])
        labels = [*labels, *names, *embed_names, "bias"]
        return _answer(stack if project_output_onto is None else stack @ project_output_onto, labels, return_labels)

    # --- where the stream is written and read -------------------------------------------------------------

    def _sites(self, depth: int, mlp_input: bool = False) -> list[Site]:
        """Return the writers to the stream before layer `depth` (or its MLP), in order; a norm follows each."""
        sites: list[Site] = [(at, sublayer) for at in range(depth) for sublayer in SUBLAYERS]
        return [*sites, (depth, "attn")] if mlp_input else sites

    def _stream(self, depth: int, mlp_input: bool, pos_slice: Selection) -> Float[Tensor, "*batch_and_pos d_model"]:
        if mlp_input:
            name = f"blocks.{depth}.hook_normalized_resid_mid"
        elif depth < self.model.cfg.n_layers:
            name = f"blocks.{depth}.hook_resid_pre"
        else:
            name = f"blocks.{depth - 1}.hook_normalized_resid_post"
        return self._at(name, pos_slice)

    def _at(self, name: str, pos_slice: Selection, dim: int = -2) -> Tensor:
        return as_slice(pos_slice).apply(self._cached(name), dim=dim)

    # --- what is written, and what arrives of it ----------------------------------------------------------

    def _carry(
        self,
        sites: list[Site],
        pos_slice: Selection,
        written: Mapping[Sublayer, Callable[[int], Stack]],
        start: Stack | None = None,
    ) -> Stack:
        """Pass `start` and everything that the sub-layers write later through the norms that follow."""
        rows = self._stream(0, False, pos_slice)[None][:0] if start is None else start
        for layer, sublayer in sites:
            if sublayer in written:
                rows = torch.cat([rows, written[sublayer](layer)])
            rows = self._apply_norm(rows, f"blocks.{layer}.{NORM_AFTER[sublayer]}", pos_slice)
        return rows

    def _sublayers(
        self, sites: list[Site], pos_slice: Selection, kept: tuple[Sublayer, ...]
    ) -> tuple[Stack, list[str]]:
        def output(sublayer: Sublayer, layer: int) -> Stack:
            return self._at(f"blocks.{layer}.hook_{sublayer}_out", pos_slice)[None]

        stack = self._carry(sites, pos_slice, {sublayer: partial(output, sublayer) for sublayer in kept})
        return stack, [f"{at}_{sublayer}_out" for at, sublayer in sites if sublayer in kept]

    def _all_heads(self, sites: list[Site], pos_slice: Selection) -> tuple[Stack, list[str]]:
        def heads(layer: int) -> Stack:
            z = self._at(f"blocks.{layer}.attn.hook_z", pos_slice, dim=-3)
            return torch.einsum("...he,hed->h...d", z, self.model.blocks[layer].attn.W_O)

        layers = [at for at, sublayer in sites if sublayer == "attn"]
        names = [f"L{at}H{head}" for at in layers for head in range(self.model.cfg.n_heads)]
        return self._carry(sites, pos_slice, {"attn": heads}), names

    def _all_neurons(self, sites: list[Site], pos_slice: Selection, neuron_slice: Selection) -> tuple[Stack, list[str]]:
        kept = as_slice(neuron_slice).apply(torch.arange(len(self.model.blocks[0].mlp.W_out)), dim=0).reshape(-1)

        def neurons(layer: int) -> Stack:
            post = self._at(f"blocks.{layer}.mlp.hook_post", pos_slice)
            return torch.einsum("...n,nd->n...d", post[..., kept], self.model.blocks[layer].mlp.W_out[kept])

        names = [f"L{at}N{neuron}" for at, sublayer in sites if sublayer == "mlp" for neuron in kept.tolist()]
        return self._carry(sites, pos_slice, {"mlp": neurons}), names

    def _embeds(self, sites: list[Site], pos_slice: Selection) -> tuple[list[Stack], list[str]]:
        names = [name for name in ("embed", "pos_embed") if f"hook_{name}" in self.cache_dict]
        return [self._carry(sites, pos_slice, {}, self._at(f"hook_{name}", pos_slice)[None]) for name in names], names

    def _offsets(self, sites: list[Site], pos_slice: Selection, with_biases: tuple[Sublayer, ...] = ()) -> Stack:
        """Compute the contribution of the norms' offsets and of the biases of these sub-layers."""
        row = torch.zeros_like(self._stream(0, False, pos_slice))[None]
        for layer, sublayer in sites:
            block = self.model.blocks[layer]
            if sublayer in with_biases:
                row = row + (block.attn.b_O if sublayer == "attn" else block.mlp.b_out)
            norm = NORM_AFTER[sublayer]
            row = self._apply_norm(row, f"blocks.{layer}.{norm}", pos_slice) + getattr(block, norm).b
        return row

    def _with_remainder(
        self, stack: Stack, labels: list[str], depth: int, mlp_input: bool, pos_slice: Selection
    ) -> tuple[Tensor, list[str]]:
        remainder = self._stream(depth, mlp_input, pos_slice) - stack.sum(dim=0)
        return torch.cat([stack, remainder[None]]), [*labels, "remainder"]


def _answer(stack: Stack, labels: list[str], return_labels: bool) -> Any:
    return (stack, labels) if return_labels else stack
