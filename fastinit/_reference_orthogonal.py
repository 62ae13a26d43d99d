"""Orthogonal matrices of the stream in plain NumPy, from their normal matrices.

The oracle for `orthogonal_`, as `_reference` is for all else: it imports nothing, favours
obviousness over speed, and knows neither tiles nor threads. Unlike there the bits are exact:
docs/stream.md, which states the same in words, leaves no rounding open.

Sources: Stewart, "The efficient generation of random orthogonal matrices with an application to
condition estimators" (1980); Mezzadri, "How to generate random matrices from the classical compact
groups" (2007); of the sums, as said at each.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]

PANEL = 64  # real columns of a block of reflectors
SEGMENT = 128  # rows whose products make a sum of their own


def _fma(a: Any, b: Any, c: Any) -> Any:
    """Return a * b + c, rounded once to the dtype of the arrays.

    In float32 the product is exact in float64; the sum there is rounded to odd (Boldo and
    Melquiond, 2008), so that the rounding to float32 is the only one that shows. In float64 product
    and sum are exact as sums of two (Dekker 1971, Knuth), of which the larger part decides but for
    ties and neighbours of ties, where the sum of the others is looked at, rounded to odd as well.
    """
    dtype = np.result_type(a, b, c)
    wide = np.float64
    x, y, z = np.broadcast_arrays(a, b, c)
    x, y, z = x.astype(wide), y.astype(wide), z.astype(wide)
    if dtype == np.float32:
        high, low = _two_sum(x * y, z)
        return _to_odd(high, low).astype(np.float32)
    product = x * y
    x_high, y_high = _upper_half(x), _upper_half(y)
    x_low, y_low = x - x_high, y - y_high
    rest = x_low * y_low - (((product - x_high * y_high) - x_low * y_high) - x_high * y_low)
    # Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", figure 8.
    u_high, u_low = _two_sum(z, rest)
    t_high, t_low = _two_sum(product, u_high)
    return t_high + _to_odd(*_two_sum(t_low, u_low))


def _two_sum(a: Float64Array, b: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return a + b rounded, and exactly what that lacks."""
    total = a + b
    back = total - a
    return total, (a - (total - back)) + (b - back)


def _upper_half(x: Float64Array) -> Float64Array:
    """Return x with the upper 26 of its 53 bits, such that the rest has 26 as well."""
    scaled = x * float((1 << 27) + 1)
    return scaled - (scaled - x)


def _to_odd(high: Float64Array, low: Float64Array) -> Float64Array:
    """Return high + low, |low| at most half a place of high, rounded to odd."""
    bits = high.view(np.int64)
    step = np.where((low < 0) != (high < 0), -1, 1)
    return np.where((low != 0) & (bits % 2 == 0), bits + step, bits).view(np.float64)


def _chain(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return left^T right, each element one chain of fused multiply-adds down the rows."""
    found = np.zeros((left.shape[1], right.shape[1]), left.dtype)
    for k in range(len(left)):
        found = _fma(left[k][:, None], right[k][None, :], found)
    return found


def _segments(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return left^T right as the sum of its segments' chains."""
    total = np.zeros((left.shape[1], right.shape[1]), left.dtype)
    for begin in range(0, len(left), SEGMENT):
        rows = slice(begin, begin + SEGMENT)
        total = total + _chain(left[rows], right[rows])
    return total


def _real_form(matrix: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return what a complex matrix does to real and imaginary parts in turn."""
    rows, columns = matrix.shape
    form = np.empty((rows, 2, columns, 2), matrix.real.dtype)
    form[:, 0, :, 0] = form[:, 1, :, 1] = matrix.real
    form[:, 1, :, 0], form[:, 0, :, 1] = matrix.imag, -matrix.imag
    return form.reshape(2 * rows, 2 * columns)


class _Twice:
    """Numbers of twice the precision: float64 for float32, pairs of float64 for float64.

    Ogita, Rump and Oishi, "Accurate sum and dot product" (2005), Dot2; Dekker (1971).
    """

    def __init__(self, high: Any, low: Any, paired: bool) -> None:
        self.high: Any = np.asarray(high, np.float64)
        self.low: Any = np.zeros_like(self.high) if low is None else np.asarray(low, np.float64)
        self.paired = paired

    @classmethod
    def zeros(cls, shape: tuple[int, ...], paired: bool) -> _Twice:
        return cls(np.zeros(shape), np.zeros(shape), paired)

    def __getitem__(self, at: Any) -> _Twice:
        return _Twice(self.high[at], self.low[at], self.paired)

    def __setitem__(self, at: Any, other: _Twice) -> None:
        self.high[at], self.low[at] = other.high, other.low

    def plus_product(self, a: Any, b: Any) -> _Twice:
        """Return self + a b, a and b numbers or of twice the precision."""
        if isinstance(a, _Twice):
            if not self.paired:
                return _Twice(_fma(a.high, b.high, self.high), None, False)
            product, rest = a._raw_times(b)
        else:
            a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
            if not self.paired:
                return _Twice(_fma(a, b, self.high), None, False)
            product = a * b
            rest = _fma(a, b, -product)
        high, lacking = _two_sum(self.high, product)
        return _Twice(high, self.low + (lacking + rest), True)

    def plus(self, other: _Twice) -> _Twice:
        if not self.paired:
            return _Twice(self.high + other.high, None, False)
        high, lacking = _two_sum(self.high, other.high)
        return _Twice(high, self.low + (lacking + other.low), True)

    def times(self, other: _Twice) -> _Twice:
        if not self.paired:
            return _Twice(self.high * other.high, None, False)
        return _Twice(*self._normal()._raw_times(other), True)._normal()

    def inverse(self) -> _Twice:
        if not self.paired:
            return _Twice(1.0 / self.high, None, False)
        x = self._normal()
        first = 1.0 / x.high
        rest = _fma(-x.high, first, np.float64(1.0)) - x.low * first
        return _Twice(first, rest * first, True)._normal()

    def value(self) -> Any:
        return self.high + self.low if self.paired else self.high

    def _raw_times(self, other: _Twice) -> tuple[Any, Any]:
        product = self.high * other.high
        cross = self.high * other.low + self.low * other.high
        return product, _fma(self.high, other.high, -product) + cross

    def _normal(self) -> _Twice:
        high = self.high + self.low
        return _Twice(high, self.low - (high - self.high), True)


def _products(left: npt.NDArray[Any], right: npt.NDArray[Any], start: _Twice) -> _Twice:
    """Return start + left^T right in twice the precision, down the rows."""
    for a, b in zip(left, right, strict=True):
        start = start.plus_product(a[:, None], b[None, :])
    return start


def _head(
    first: complex, squares: _Twice, single: type[np.float32] | type[np.float64]
) -> tuple[complex, complex, _Twice]:
    """Return the first element of a reflector's vector v, where its axis starts, and |v|^2 / 2.

    Args:
        first: the first element of the column of normal values.
        squares: the sum of those behind it.
        single: the arithmetic to round to.
    """
    re, im = np.float64(first.real), np.float64(first.imag)
    x, y = (np.float64(-1.0 if re < 0 else 1.0), np.float64(0.0))
    behind = squares.value()
    square = re * re
    if isinstance(first, complex):
        square = _fma(im, im, square)
        size = np.sqrt(square)
        x, y = (re / size, im / size) if size > 0 else (np.float64(1.0), np.float64(0.0))
        longer = size + np.sqrt(square + behind)
        head = single(x * longer), single(y * longer)
    else:
        head = single(re + x * np.sqrt(_fma(re, re, behind))), single(0.0)
    if head[0] == 0.0 and head[1] == 0.0:  # the column is zero: any reflector will do
        head = single(1.0), single(0.0)
    squares = squares.plus_product(head[0], head[0]).plus_product(head[1], head[1])
    half = squares.times(_Twice(0.5, None, squares.paired))
    return complex(*head), complex(single(-x), single(-y)), half


def orthogonal(normal: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the orthogonal matrix that a standard normal one, rows >= columns, becomes.

    Exact to the bit, given the normal matrix bit for bit: column k of its lower trapezoid is the
    vector of reflector k but for the first element. Blocks of reflectors V (64, or 32 complex ones)
    act from the last to the first as I - V T V^H, T^-1 = striu(V^H V) + diag(|v|^2 / 2). A complex
    matrix is computed as the real one it is on real and imaginary parts in turn.

    Args:
        normal: float32, float64, complex64 or complex128; of a complex one the parts are standard
            normal.
    """
    unit = 2 if np.iscomplexobj(normal) else 1
    real = normal.real.dtype.type
    rows, columns = normal.shape
    out = np.zeros((rows * unit, columns), real)
    for begin in reversed(range(0, columns, PANEL // unit)):
        end = min(begin + PANEL // unit, columns)
        panel = np.tril(normal[begin:, begin:end])
        form = panel if unit == 1 else _real_form(panel)
        top = min(PANEL, len(form))
        # Norms and products of the vectors; the top, whose first elements change, last.
        paired, size = real is np.float64, form.shape[1]
        below = _Twice.zeros((size, size), paired)
        for row in range(0, len(form), SEGMENT):
            part = form[max(row, top if row == 0 else 0) : row + SEGMENT]
            below = below.plus(_products(part, part, _Twice.zeros((size, size), paired)))
        halves, starts = _Twice.zeros((size,), paired), []
        for k in range(end - begin):
            squares = below[unit * k, unit * k]
            for x in form[unit * (k + 1) : top, unit * k]:
                squares = squares.plus_product(x, x)
            first, start, half = _head(panel[k, k].item(), squares, real)
            panel[k, k] = first if unit == 2 else first.real
            starts.append(start)
            halves[unit * k : unit * (k + 1)] = half
        form = panel if unit == 1 else _real_form(panel)
        upper = _products(form[:top], form[:top], below)
        same = np.arange(size) // unit
        upper[same[:, None] == same[None, :]] = _Twice.zeros((), paired)
        upper[np.arange(size), np.arange(size)] = halves
        t = np.triu(_inverse(upper).value()).astype(real)
        # The columns that begin here, and all behind, are multiplied.
        for k, start in enumerate(starts):
            out[unit * (begin + k), begin + k] = start.real
            if unit == 2:
                out[unit * (begin + k) + 1, begin + k] = start.imag
        part = out[unit * begin :, begin:]
        w = _segments(form, part)
        z = _chain(np.ascontiguousarray(t.T), w)
        part -= _chain(np.ascontiguousarray(form.T), z)
    if unit == 1:
        return out
    parts = np.stack([out[0::2], out[1::2]], axis=-1)
    return parts.view(normal.dtype)[..., 0]


def _inverse(upper: _Twice) -> _Twice:
    """Return the inverse of an upper triangular matrix, row by row from the last."""
    count = len(upper.high)
    inverse = _Twice.zeros((count, count), upper.paired)
    for i in reversed(range(count)):
        reciprocal = upper[i, i].inverse()
        row = _Twice.zeros((count,), upper.paired)
        for k in range(i + 1, count):
            row = row.plus_product(upper[i, k], inverse[k])
        inverse[i] = row.times(_Twice(-reciprocal.high, -reciprocal.low, upper.paired))
        inverse[i, i] = reciprocal
    return inverse
