"""Small Flax NNX modules, ready to `Lift`: plain ones that a reader can copy and change."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float, Int, Num


class CNN(nnx.Module):
    """A convolutional network (LeCun et al. 1998): the logits of the classes of images.

    Each convolution is 3 x 3 with stride 2, which halves the sides of the image, and a SiLU; the head is a linear map
    of all that is left. Pixels should be of unit scale, since the start and the priors count on it.

    For n images a gradient holds, for each convolution, about ``n h w (9 inputs + 3 outputs)`` numbers, where h and w
    are the sides of what it returns and inputs and outputs its channels, for each restart, member or chain. Measured:
    4.3 kB an image of 8 x 8 pixels with 8 and 12 channels, 101 kB one of 28 x 28 with 16 and 32. A fit by batches
    holds that of a batch, and beside it the images as they are; the checks at its end look at 128 images at a time, or
    at a batch where batches are larger.

    Args:
        image_shape: (height, width) of images with one channel, or (height, width, channels).
        channels: outputs of each convolution.
        num_classes: how many classes there are.
        rngs: of the initial values, such as ``nnx.Rngs(0)``.

    Raises:
        ValueError: when the shape is none of an image, or x holds images of another.

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
    """A convolution as one product with the patches that the kernel is laid on.

    XLA's own takes eight times as long on the CPU, for one kernel as for one of each chain.
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
    """A gated recurrent unit over tokens (Cho et al. 2014): the logits of the next token, after each token of x.

    The state after token t is ``h_t = cell(h_{t-1}, embedding[x_t])``, from ``h_0 = 0``, and the logits are
    ``head(h_t)``: a function of x up to token t alone. For n rows of T tokens a gradient holds some
    ``n T (12 width + 3 vocabulary)`` numbers, for each restart, member or chain; n is the
    ``batch_size`` where there is one. The logits of a row that holds another token than 0, ..., vocabulary - 1 are NaN:
    where a text has ended any token may stand in x, and only y has a value for padding (`next_token_rows`).

    Args:
        vocabulary: how many kinds of tokens there are, in x and in y.
        width: numbers in the state, and in the embedding of a token.
        rngs: of the initial values, such as ``nnx.Rngs(0)``.

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

    def __call__(self, x: Int[Array, "n t"]) -> Float[Array, "n t k"]:
        inputs = jnp.moveaxis(_embedded(self.embedding, x), 1, 0)
        _, states = jax.lax.scan(self.cell, jnp.zeros_like(inputs[0]), inputs)
        return self.head(jnp.moveaxis(states, 0, 1))


class Transformer(nnx.Module):
    """A causal transformer over tokens (Vaswani et al. 2017), normalised before each block as in GPT-2.

    The logits after token t are a function of x up to token t alone, by the mask of its attention. There is no dropout:
    a prior takes its place. For n rows of T tokens a gradient holds some
    ``n T (26 width + 3 num_heads T)`` numbers for each layer, and ``n T (8 width + 3 vocabulary)`` beside them, for
    each restart, member or chain; n is the ``batch_size`` where there is one. Rows of other tokens are those of `GRU`.

    Args:
        vocabulary: how many kinds of tokens there are, in x and in y.
        width: numbers that stand for a token.
        num_layers: how many blocks of attention and MLP there are.
        num_heads: heads of the attention, which share the width.
        context: the most tokens that a row of x may have: each place has an embedding of its own.
        rngs: of the initial values, such as ``nnx.Rngs(0)``.

    Raises:
        ValueError: when the heads do not divide the width, or a row is longer than the context.
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

    def __call__(self, x: Int[Array, "n t"]) -> Float[Array, "n t k"]:
        length, context = x.shape[1], self.place.num_embeddings
        if length > context:
            raise ValueError(f"Transformer: expected rows of at most {context} tokens, its context; got {length}.")
        h = _embedded(self.embedding, x) + _embedded(self.place, jnp.arange(length))
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h))


class _Block(nnx.Module):
    """Attention to the tokens before, then an MLP on each, both added to what came in."""

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
    """Means of the values up to each place, weighed by softmax(query key / sqrt(d)).

    `jax.nn.dot_product_attention` would round the weights to float32 in double precision.
    """
    length, _heads, size = query.shape[1:]
    scores = jnp.einsum("nthd,nshd->nhts", query, key) / size**0.5
    seen = jnp.tril(jnp.ones((length, length), bool))
    return jnp.einsum("nhts,nshd->nthd", jax.nn.softmax(jnp.where(seen, scores, -jnp.inf)), value)


def _embedded(table: nnx.Embed, tokens: Int[Array, "... t"]) -> Float[Array, "... t d"]:
    """The rows of a table; called, it would round them to float32 in double precision.

    A text with a token that is not in the table is NaN as a whole. NaN in the place of the token alone could be out of
    sight, behind the padding of y, and spoil the gradient only.
    """
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise TypeError(
            f"Expected x to be integer tokens 0, ..., {table.num_embeddings - 1}; got {tokens.dtype}. Use "
            f"x.astype(int) if they are tokens."
        )
    known = (tokens >= 0) & (tokens < table.num_embeddings)
    vectors = jnp.take(table.embedding[...], jnp.where(known, tokens, 0), axis=0)
    return jnp.where(known.all(axis=-1)[..., None, None], vectors, jnp.nan)
