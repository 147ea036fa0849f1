"""Small Flax NNX modules to `Lift`, plain enough to copy and change."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float, Num


class CNN(nnx.Module):
    """A convolutional network (LeCun et al. 1998) that maps images to the logits of their classes.

    Each convolution is 3 x 3 with stride 2, which halves height and width, followed by a SiLU; the head is a linear map
    of the flattened result. Pixels should have unit scale, as the initial values and the priors assume.

    Memory: for n images the gradient stores about ``n h w (9 inputs + 3 outputs)`` numbers for each convolution, where
    h and w are the height and width of its output, and inputs and outputs its channels; this for each restart, member
    or chain. Measured: 4.3 kB per image of 8 x 8 pixels with 8 and 12 channels, 101 kB per image of 28 x 28 with 16 and
    32. A fit in batches needs this for one batch, and the images themselves; the checks at its end take 128 images at a
    time, or a batch if that is larger.

    Args:
        image_shape: (height, width) of images with one channel, or (height, width, channels).
        channels: the number of output channels of each convolution.
        num_classes: the number of classes.
        rngs: the keys of the initial values, such as ``nnx.Rngs(0)``.

    Raises:
        ValueError: when `image_shape` is not the shape of an image, or x holds images of another shape.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from flatprior.models.architectures import CNN
        >>> CNN((8, 8), (8, 12), num_classes=10, rngs=nnx.Rngs(0))(jnp.zeros((5, 8, 8))).shape
        (5, 10)
    """

    def __init__(
        self, image_shape: tuple[int, ...], channels: tuple[int, ...], num_classes: int, *, rngs: nnx.Rngs
    ) -> None:
        if len(image_shape) not in (2, 3):
            raise ValueError(f"CNN: expected (height, width) or (height, width, channels); got {image_shape!r}.")
        self.image_shape = tuple(image_shape)
        height, width, inputs = (*image_shape, 1)[:3]
        self.convolutions: nnx.List[nnx.Conv] = nnx.List()
        for outputs in channels:
            layer = nnx.Conv(inputs, outputs, (3, 3), strides=2, conv_general_dilated=_convolve, rngs=rngs)
            self.convolutions.append(layer)
            height, width, inputs = -(-height // 2), -(-width // 2), outputs
        self.head = nnx.Linear(height * width * inputs, num_classes, rngs=rngs)

    def __call__(self, x: Num[Array, "n ..."]) -> Float[Array, "n k"]:
        if x.shape[1:] != self.image_shape:
            raise ValueError(f"CNN: expected images of shape {self.image_shape}; got {x.shape[1:]}.")
        h = x[..., None] if x.ndim == 3 else x
        for convolution in self.convolutions:
            h = jax.nn.silu(convolution(h))
        return self.head(h.reshape(len(h), -1))


def _convolve(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "i j c k"],
    strides: tuple[int, int],
    padding: str,
    **_: Any,
) -> Float[Array, "n p q k"]:
    """A convolution as one matrix product with the patches under the kernel.

    XLA's own convolution takes eight times as long on the CPU, with one kernel and with one kernel per chain.
    """
    pads = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    ends = [size - length for size, length in zip(x.shape[1:3], kernel.shape, strict=False)]
    patches = [
        x[:, i : ends[0] + i + 1 : strides[0], j : ends[1] + j + 1 : strides[1]]
        for i in range(kernel.shape[0])
        for j in range(kernel.shape[1])
    ]
    return jnp.concatenate(patches, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


class GRU(nnx.Module):
    """A gated recurrent unit over tokens (Cho et al. 2014): the logits of the next token after each token of x.

    The state after token t is ``h_t = cell(h_{t-1}, embedding[x_t])`` with ``h_0 = 0``, and the logits are
    ``head(h_t)``, so they depend on x up to token t only. For n rows of T tokens the gradient stores about
    ``n T (12 width + 3 vocabulary)`` numbers for each restart, member or chain; with minibatches n is the
    ``batch_size``. A row with a token outside 0, ..., vocabulary - 1 has NaN logits: after the end of a text x may hold
    any token of the vocabulary, and only y has a value for padding (`next_token_rows`).

    Args:
        vocabulary: the number of kinds of tokens, in x and in y.
        width: the size of the state and of the embedding of a token.
        rngs: the keys of the initial values, such as ``nnx.Rngs(0)``.

    Raises:
        TypeError: when the tokens are not integers.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from flatprior.models.architectures import GRU
        >>> nnx.eval_shape(lambda x: GRU(vocabulary=5, width=8, rngs=nnx.Rngs(0))(x), jnp.zeros((2, 7), int)).shape
        (2, 7, 5)
    """

    def __init__(self, vocabulary: int, width: int, *, rngs: nnx.Rngs) -> None:
        self.embedding = nnx.Embed(vocabulary, width, rngs=rngs)
        self.cell = nnx.GRUCell(width, width, rngs=rngs)
        self.head = nnx.Linear(width, vocabulary, rngs=rngs)

    def __call__(self, x: Num[Array, "..."]) -> Float[Array, "n t k"]:
        inputs = jnp.moveaxis(_embedded(self.embedding, x), 1, 0)
        _, states = jax.lax.scan(self.cell, jnp.zeros_like(inputs[0]), inputs)
        return self.head(jnp.moveaxis(states, 0, 1))


class Transformer(nnx.Module):
    """A causal transformer over tokens (Vaswani et al. 2017), normalised before each block as in GPT-2.

    The attention is masked, so the logits after token t depend on x up to token t only. There is no dropout: a prior
    takes its place. For n rows of T tokens the gradient stores about ``n T (26 width + 3 num_heads T)`` numbers per
    layer, and ``n T (8 width + 3 vocabulary)`` more, for each restart, member or chain; with minibatches n is the
    ``batch_size``. Tokens outside the vocabulary are treated as by `GRU`.

    Args:
        vocabulary: the number of kinds of tokens, in x and in y.
        width: the size of the vector of a token.
        num_layers: the number of blocks of attention and MLP.
        num_heads: the number of attention heads, which share the width.
        context: the largest number of tokens in a row of x: each position has an embedding of its own.
        rngs: the keys of the initial values, such as ``nnx.Rngs(0)``.

    Raises:
        ValueError: when `num_heads` does not divide `width`, or a row is longer than `context`.
        TypeError: when the tokens are not integers.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from flatprior.models.architectures import Transformer
        >>> def logits(x):
        ...     return Transformer(5, width=8, num_layers=1, num_heads=2, context=10, rngs=nnx.Rngs(0))(x)
        >>> nnx.eval_shape(logits, jnp.zeros((2, 7), int)).shape
        (2, 7, 5)
    """

    def __init__(
        self, vocabulary: int, width: int, num_layers: int, num_heads: int, context: int, *, rngs: nnx.Rngs
    ) -> None:
        self.embedding = nnx.Embed(vocabulary, width, rngs=rngs)
        self.place = nnx.Embed(context, width, rngs=rngs)
        self.blocks = nnx.List(_Block(width, num_heads, rngs=rngs) for _ in range(num_layers))
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, vocabulary, rngs=rngs)

    def __call__(self, x: Num[Array, "..."]) -> Float[Array, "n t k"]:
        length, context = x.shape[1], self.place.num_embeddings
        if length > context:
            raise ValueError(f"Transformer: expected rows of at most {context} tokens, its context; got {length}.")
        h = _embedded(self.embedding, x) + _embedded(self.place, jnp.arange(length))
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h))


class _Block(nnx.Module):
    """Attention to the earlier tokens, then an MLP on each token, both with a residual connection."""

    def __init__(self, width: int, num_heads: int, *, rngs: nnx.Rngs) -> None:
        self.norm1 = nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            num_heads, width, attention_fn=_causal_attention, decode=False, rngs=rngs
        )
        self.norm2 = nnx.LayerNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, h: Float[Array, "n t d"]) -> Float[Array, "n t d"]:
        h = h + self.attention(self.norm1(h))
        return h + self.down(jax.nn.gelu(self.up(self.norm2(h))))


def _causal_attention(
    query: Float[Array, "n t h d"], key: Float[Array, "n t h d"], value: Float[Array, "n t h d"], **_: Any
) -> Float[Array, "n t h d"]:
    """Means of the values up to each position, with weights softmax(query key / sqrt(d)).

    `jax.nn.dot_product_attention` would round the attention weights to float32 under float64.
    """
    length, _heads, size = query.shape[1:]
    scores = jnp.einsum("nthd,nshd->nhts", query, key) / size**0.5
    mask = jnp.tril(jnp.ones((length, length), bool))
    return jnp.einsum("nhts,nshd->nthd", jax.nn.softmax(jnp.where(mask, scores, -jnp.inf)), value)


def _embedded(table: nnx.Embed, tokens: Num[Array, "... t"]) -> Float[Array, "... t d"]:
    """The embeddings of tokens; calling the module would round them to float32 under float64.

    A row with a token outside the table becomes NaN as a whole. If only that token were NaN, the padding of y could
    hide it in the loss but not in the gradient.
    """
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise TypeError(
            f"Expected x to be integer tokens 0, ..., {table.num_embeddings - 1}; got {tokens.dtype}. Use "
            f"x.astype(int) if they are tokens."
        )
    is_known = (tokens >= 0) & (tokens < table.num_embeddings)
    vectors = jnp.take(table.embedding[...], jnp.where(is_known, tokens, 0), axis=0)
    return jnp.where(is_known.all(axis=-1)[..., None, None], vectors, jnp.nan)
