"""Bytes and floating-point operations of a causal transformer, term by term, from its shapes alone.

The block counted here is that of Qwen2, Llama and Mistral: two RMSNorms, attention with grouped keys and values, rotary
positions, a gated feed-forward layer. Shapes of tensors are exact; what a CUDA allocator adds is not in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

FLOAT, HALF = 4, 2
"""Bytes of a float32 and of a bfloat16."""


@dataclass(frozen=True)
class Shape:
    """The sizes of one model.

    Attributes:
        hidden: d, width of the residual stream.
        layers: L.
        heads, kv_heads: attention heads of queries, and of keys and values.
        head_width: of one head.
        feed_forward: f, inner width of the gated feed-forward layer.
        vocabulary: V, rows of the embedding.
        tied: whether the output head is the embedding.
        bias: whether the projections of queries, keys and values have one.
        context: positions that the model reads at most.
        other: parameters beyond those that these sizes make; 0 for Qwen2.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    feed_forward: int
    vocabulary: int
    tied: bool = True
    bias: bool = True
    context: int = 32768
    other: int = 0

    @property
    def query(self) -> int:
        """Width of all queries."""
        return self.heads * self.head_width

    @property
    def key(self) -> int:
        """Width of all keys; values have the same."""
        return self.kv_heads * self.head_width

    @property
    def block_matrices(self) -> int:
        """Parameters in the matrices of one block: d(q + 2k) + qd + 3df."""
        return self.hidden * (2 * self.query + 2 * self.key + 3 * self.feed_forward)

    @property
    def embedding(self) -> int:
        """Parameters of the embedding, and of the output head where that is another: Vd, or 2Vd."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """All parameters: the embedding, and in each block its matrices, biases and two norms; one norm at the end."""
        biases = self.query + 2 * self.key if self.bias else 0
        block = self.block_matrices + biases + 2 * self.hidden
        return self.embedding + self.layers * block + self.hidden + self.other

    def adapter(self, rank: int) -> int:
        """Parameters of low-rank adapters on all seven matrices of every block: rank · (in + out) each.

        Source: LoRA, arXiv:2106.09685, section 4.1.
        """
        d, q, k, f = self.hidden, self.query, self.key, self.feed_forward
        sides = 2 * (d + q) + 2 * (d + k) + 3 * (d + f)
        return self.layers * rank * sides


KNOWN: Mapping[str, Shape] = {
    "Qwen/Qwen2.5-0.5B-Instruct": Shape(896, 24, 14, 2, 64, 4864, 151936),
    "Qwen/Qwen2.5-1.5B-Instruct": Shape(1536, 28, 12, 2, 128, 8960, 151936),
    "Qwen/Qwen2.5-3B-Instruct": Shape(2048, 36, 16, 2, 128, 11008, 151936),
    "Qwen/Qwen2.5-7B-Instruct": Shape(3584, 28, 28, 4, 128, 18944, 152064, tied=False),
}
"""Models whose shapes are known without asking anyone, as their config.json on the hub states them."""


def kv_bytes(shape: Shape, rows: int, positions: int, width: int) -> int:
    """Keys and values of `rows` conversations with room for `positions` tokens each: 2 · L · k · rows · positions.

    Args:
        shape: of the model.
        rows: conversations held at once.
        positions: tokens that each has room for.
        width: bytes of one number.
    """
    return 2 * shape.layers * shape.key * rows * positions * width


def room(tokens: int) -> int:
    """Positions that a KV row has at most once it holds `tokens`: it grows by a half, or to what is needed.

    >>> room(100), room(1000)
    (150, 1500)
    """
    return tokens * 3 // 2


def block_activations(shape: Shape, width: int, *, adapters: bool = False, fused: bool = False) -> int:
    """Bytes that one block keeps for its backward pass, for each token.

        float32:    4 · (6d + 2q + 2k + 4f) + 4h + 8
        bfloat16:   2 · (8d + 2q + 2k + 4f) + 4h + 8
        fused:      w · (4d + 2q + 2k + 3f) + 4h + 8      w bytes a number

    Kept are, of each of the two norms, its input, the normalised input and its output; queries, keys, values and the
    output of attention with the logarithm of each head's normaliser (h numbers); of the feed-forward layer the gate
    before and after its SiLU, the other half, and their product. A norm computes in float32, so under bfloat16 its
    input is kept in that. Fused kernels, such as Liger's, keep a norm's input and output and the product's two factors.
    Attention keeps no T × T matrix: FlashAttention, arXiv:2205.14135.

    Args:
        shape: of the model.
        width: bytes of one number.
        adapters: whether each of the seven matrices has one of low rank beside it; under bfloat16 each keeps its input
            in float32, 4 · (5d + q + f) more.
        fused: whether norms and the gated product are one kernel each.
    """
    d, q, k, f = shape.hidden, shape.query, shape.key, shape.feed_forward
    norms = 2 * d * (2 * width if fused else 3 * FLOAT if width == FLOAT else FLOAT + 2 * width)
    inputs = FLOAT * (5 * d + q + f) if adapters and width != FLOAT else 0
    return norms + width * (2 * q + 2 * k + (3 if fused else 4) * f) + FLOAT * shape.heads + 2 * FLOAT + inputs


def activations(
    shape: Shape, tokens: int, width: int, *, checkpointing: bool, adapters: bool = False, fused: bool = False
) -> int:
    """Bytes that all blocks and the last norm keep for the backward pass over `tokens` tokens.

    With checkpointing a block keeps its input alone and one block at a time is computed again: L · d + one block, where
    without it is L blocks. Source: arXiv:1604.06174, with one block as the segment.
    """
    block = block_activations(shape, width, adapters=adapters, fused=fused)
    # The last norm's input in float32, the normalised one, its output, which the head keeps, and a float for its scale.
    last = shape.hidden * (FLOAT + 2 * width) + FLOAT
    blocks = shape.layers * shape.hidden * width + block if checkpointing else shape.layers * block
    return tokens * (blocks + last)


def flops(shape: Shape, tokens: int, *, acted: int, seen: float, backward: bool) -> float:
    """Floating-point operations on `tokens` tokens, multiplications and additions counted apart.

        forward: 2 · L · block_matrices · tokens + 4 · L · q · seen · tokens + 2 · V · d · acted

    The backward pass is twice that. Recomputation under checkpointing is not work of the model and is not counted.
    Source: PaLM, arXiv:2204.02311, appendix B; attention counts the positions that a causal mask lets a token see.

    Args:
        shape: of the model.
        tokens: that go through the blocks.
        acted: tokens that the output head is asked about.
        seen: positions that a token attends to, on average; half its sequence's length.
        backward: whether the gradient is computed too.
    """
    forward = 2.0 * shape.layers * (shape.block_matrices + 2.0 * shape.query * seen) * tokens
    forward += 2.0 * shape.vocabulary * shape.hidden * acted
    return 3.0 * forward if backward else forward


def decode_bytes(shape: Shape, rows: int, seen: float, width: int) -> float:
    """Bytes that must come from memory to say one token in each of `rows` conversations: the weights and the cache.

    Divided by the memory's bandwidth it is the shortest time that such a step can take; the embedding is a look-up and
    counts once, as the output head.
    """
    weights = shape.layers * shape.block_matrices + shape.vocabulary * shape.hidden
    return float(weights * width) + kv_bytes(shape, rows, 1, width) * seen
