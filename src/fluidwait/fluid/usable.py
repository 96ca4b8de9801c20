"""The usable bound: what the calibrated fluid model carries with the memory that an engine can really use.

The fluid bound counts every KV token of the device and every token of a request. An engine keeps a watermark free when
it admits, and a request holds whole blocks: in an iteration that ends with k of its tokens cached it holds
``block_size * ceil(k / block_size)`` of them. The *usable* memory of a traffic is therefore the KV tokens below the
watermark, times the share of the tokens held that are KV tokens, both summed over the lives of the requests.

Prompts count as prefilled in one piece, as in the fluid bound. Where an engine prefills in chunks and takes the blocks
of the whole prompt at once, a request holds more, so the bound stays a bound. Decodes may use what the watermark keeps
from admissions. A policy that admits exactly when others grow could therefore come out above, by the watermark at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fluidwait.base.errors import ConfigError
from fluidwait.fluid.calibrated import CalibratedBoundary, Semantics, calibrated_boundary, life_sums

if TYPE_CHECKING:
    from fluidwait.device.timing import TimeModel
    from fluidwait.workload import LengthLaw


def held_tokens(law: LengthLaw, block_size: int, semantics: Semantics = "serving") -> np.ndarray:
    """KV tokens of the blocks that a request holds, summed over the iterations of its life, f8[m] per type.

    With H(k) the sum of b ceil(i / b) over i = 1..k, for k = q b + r, r < b::

        H(k) = b (b q (q + 1) / 2 + r (q + 1))       held = b ceil(l / b) + H(l + D) - H(l)

    with the D decodes of :func:`~fluidwait.fluid.calibrated.life_sums`; under ``decode`` H(l + l' - 1) - H(l - 1).

    Raises:
        ConfigError: a block of less than a token.
    """
    if block_size < 1:
        raise ConfigError(f"block_size: must be at least 1 (tokens), found {block_size}")
    prompt = law.prompt
    decodes = life_sums(law, None, semantics).decodes
    before = prompt - 1.0 if semantics == "decode" else prompt
    decoding = _held_up_to(before + decodes, block_size) - _held_up_to(before, block_size)
    return decoding if semantics == "decode" else decoding + block_size * np.ceil(prompt / block_size)


def usable_capacity(
    law: LengthLaw, blocks: int, block_size: int, watermark: int, semantics: Semantics = "serving"
) -> float:
    """KV tokens of this traffic that fit in the blocks below the watermark, each request rounded up to blocks.

    Args:
        blocks: KV blocks in all. watermark: of these, what admissions leave free.

    Raises:
        ConfigError: no block is left below the watermark, or a block of less than a token.
    """
    if not 0 <= watermark < blocks:
        raise ConfigError(f"watermark: must be at least 0 and below the {blocks} KV blocks, found {watermark}")
    needed, held = life_sums(law, None, semantics).kv_tokens, held_tokens(law, block_size, semantics)
    return float((blocks - watermark) * block_size * (law.share @ needed) / (law.share @ held))


def usable_boundary(
    law: LengthLaw,
    model: TimeModel,
    blocks: int,
    block_size: int,
    watermark: int,
    semantics: Semantics = "serving",
) -> CalibratedBoundary:
    """The usable bound: the largest rate in flow balance within :func:`usable_capacity`, without limits of a policy.

    It is never above :func:`~fluidwait.fluid.calibrated.calibrated_boundary` with all KV tokens, and equal to it with
    blocks of one token and no watermark. ``memory`` of the result is in KV tokens, without the rounding.

    Raises:
        ConfigError: as of :func:`usable_capacity`.
    """
    capacity = usable_capacity(law, blocks, block_size, watermark, semantics)
    return calibrated_boundary(law, model, capacity, semantics=semantics)


def _held_up_to(tokens: np.ndarray, size: int) -> np.ndarray:
    """H(k) of :func:`held_tokens` for k = ``tokens``, f8."""
    full, rest = np.divmod(tokens, size)
    return size * (size * full * (full + 1.0) / 2.0 + rest * (full + 1.0))
