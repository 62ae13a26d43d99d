// What makes an orthogonal matrix out of a normal one: the numbers that are part of the stream, and
// the few operations of a block of reflectors that are no matrix product. Engines own the order in
// which blocks and tiles are visited; docs/stream.md says which sums there are and in which order.
//
// Stewart, "The efficient generation of random orthogonal matrices", 1980: column k of the lower
// trapezoid of a normal matrix is, as it stands, the vector that reflector k sends to a multiple of
// the k-th axis. Mezzadri, "How to generate random matrices from the classical compact groups",
// 2007: which multiple. Schreiber and Van Loan, "A storage-efficient WY representation", 1989, and
// Puglisi, "Modification of the Householder method based on the compact WY representation", 1992: a
// block of reflectors V is I - V T V^H with T^-1 = striu(V^H V) + diag(|v|^2 / 2). Since every
// number in T comes from V as rounded, the product is orthogonal whatever the rounding of V was.
//
// A complex matrix travels as the real one that acts on real and imaginary parts in turn: row 2r of
// column 2p holds the real part, row 2r + 1 the imaginary one, and column 2p + 1 that times i.
#pragma once

#include "lanes.h"
#include "spec.h"

namespace fastinit {
inline namespace FASTINIT_ISA {

constexpr int kPanelColumns = 64;  // real columns of a block of reflectors
constexpr int kSegmentRows = 128;  // rows of a panel whose products are summed by themselves

// One block of reflectors of a matrix, as real rows and columns.
struct Panel {
  int unit;       // 2 if complex, else 1
  int64_t first;  // its first reflector
  int64_t rows;   // real, from row `first` of the matrix on
  int columns;    // real
  int top;        // the rows in which a column may begin
  int64_t segments;

  FASTINIT_HD Panel(const MatrixSpec& spec, int64_t block) {
    unit = spec.complex ? 2 : 1;
    const int64_t reflectors = kPanelColumns / unit;
    first = block * reflectors;
    rows = (spec.rows - first) * unit;
    const int64_t left = spec.columns - first;
    columns = static_cast<int>(left < reflectors ? left : reflectors) * unit;
    top = static_cast<int>(rows < kPanelColumns ? rows : kPanelColumns);
    segments = (rows + kSegmentRows - 1) / kSegmentRows;
  }

  // The first row of a segment that belongs to its sum of squares and products: the top has a turn
  // of its own, once the heads of the vectors are known.
  FASTINIT_HD int64_t sum_begin(int64_t segment) const {
    return segment == 0 ? top : segment * kSegmentRows;
  }
  FASTINIT_HD int64_t segment_end(int64_t segment) const {
    const int64_t end = (segment + 1) * kSegmentRows;
    return end < rows ? end : rows;
  }
};

// The block that a column of the matrix is first seen in.
FASTINIT_HD int64_t block_of(const MatrixSpec& spec, int64_t column) {
  return column / (kPanelColumns / (spec.complex ? 2 : 1));
}

// Numbers of twice the precision of S, in lanes F of double: how orthogonal a block is hangs on T.
// Of float that is double itself; of double it is the unevaluated sum of two (Ogita, Rump and
// Oishi, "Accurate sum and dot product", 2005: Dot2; Dekker, "A floating-point technique for
// extending the available precision", 1971).
template <class S, class F>
struct Twice;

template <class F>
struct Twice<float, F> {
  F high{};
  static constexpr int kWords = 1;

  FASTINIT_HD void add_product(F a, F b) { high = add_exact_product(a, b, high); }  // of floats
  FASTINIT_HD void add_product(const Twice& a, const Twice& b) { high = fma(a.high, b.high, high); }
  FASTINIT_HD void add(const Twice& other) { high = high + other.high; }
  FASTINIT_HD Twice times(const Twice& b) const { return {high * b.high}; }
  FASTINIT_HD Twice negative() const { return {-high}; }
  FASTINIT_HD Twice inverse() const { return {splat<F>(1.0) / high}; }
  FASTINIT_HD F value() const { return high; }
};

template <class F>
struct Twice<double, F> {
  F high{}, low{};
  static constexpr int kWords = 2;

  FASTINIT_HD void add_product(F a, F b) {
    const F product = a * b;
    const F rest = fma(a, b, -product);
    low = low + (add_high(product) + rest);
  }
  FASTINIT_HD void add_product(const Twice& a, const Twice& b) {
    const Twice product = a.raw_times(b);
    low = low + (add_high(product.high) + product.low);
  }
  FASTINIT_HD void add(const Twice& other) { low = low + (add_high(other.high) + other.low); }
  FASTINIT_HD Twice times(const Twice& b) const { return normal().raw_times(b).normal(); }
  FASTINIT_HD Twice negative() const { return {-high, -low}; }
  FASTINIT_HD Twice inverse() const {
    const Twice x = normal();
    const F first = splat<F>(1.0) / x.high;
    const F rest = fma(-x.high, first, splat<F>(1.0)) - x.low * first;
    return Twice{first, rest * first}.normal();
  }
  FASTINIT_HD F value() const { return high + low; }

  FASTINIT_HD Twice raw_times(const Twice& b) const {
    const F product = high * b.high;
    const F cross = high * b.low + low * b.high;
    return {product, fma(high, b.high, -product) + cross};
  }
  // The same sum, with the whole of what `high` can hold in it.
  FASTINIT_HD Twice normal() const {
    const F sum = high + low;
    return {sum, low - (sum - high)};
  }
  // high += x; returns what that lacks.
  FASTINIT_HD F add_high(F x) {
    const F sum = high + x;
    const F back = sum - high;
    const F rest = (high - (sum - back)) + (x - back);
    high = sum;
    return rest;
  }
};

// The first element of a vector x, a + bi (b = 0 if real), and the sum of the squares behind it
// become the first of v = x - (sign) |x| e and half of |v|^2; `sign` is where the first axis has to
// start so that R gets a positive diagonal: -a / |a|.
template <class S>
struct Head {
  S real, imaginary;
  S sign_real, sign_imaginary;
  Twice<S, double> half;

  FASTINIT_HD Head(bool complex, S a, S b, Twice<S, double> squares) {
    const double re = static_cast<double>(a), im = static_cast<double>(b);
    const double behind = squares.value();
    if (complex) {
      const double square = fma(im, im, re * re);
      const double size = sqrt(square);
      // Without a direction of its own x begins along the axis.
      const double x = size > 0.0 ? re / size : 1.0, y = size > 0.0 ? im / size : 0.0;
      const double longer = size + sqrt(square + behind);
      real = static_cast<S>(x * longer);
      imaginary = static_cast<S>(y * longer);
      sign_real = static_cast<S>(-x);
      sign_imaginary = static_cast<S>(-y);
    } else {
      const double length = sqrt(fma(re, re, behind));
      real = static_cast<S>(re < 0.0 ? re - length : re + length);
      imaginary = S{0};
      sign_real = re < 0.0 ? S{1} : S{-1};
      sign_imaginary = S{0};
    }
    if (real == S{0} && imaginary == S{0}) real = S{1};  // x is zero: any reflector will do
    const double u = static_cast<double>(real), v = static_cast<double>(imaginary);
    squares.add_product(u, u);
    squares.add_product(v, v);
    half = squares.times({0.5});
  }
};

}  // namespace FASTINIT_ISA
}  // namespace fastinit
