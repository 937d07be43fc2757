// Cubic B-spline bases on evenly spaced knots, and their slopes. PyTorch computes the two matrix
// products of the KAN layer around these loops.
//
// With u the distance from the middle of a basis in knot spacings,
// B(u) = (a^3 - 4 b^3) / 6 and B'(u) = -sign(u) (a^2 - 4 b^2) / 2, where a = (2 - |u|)_+ and
// b = (1 - |u|)_+ (de Boor, "A Practical Guide to Splines", chapter IX). As in
// wbcnets/ops/kan_spline/cardinal.py, bases come six times as large, as (rows, n, I); an input is
// read once for all its bases. Rows of bases and of their gradients are `stride` values apart.
//
// The arithmetic is in T. Bases and their gradients are stored in S, which is T or narrower.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

namespace {

// The upper half of a float32
struct BFloat16 {
  uint16_t bits;
};

inline float widened(BFloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float wide;
  std::memcpy(&wide, &bits, sizeof wide);
  return wide;
}

inline float widened(float x) { return x; }
inline double widened(double x) { return x; }

// To the nearest, ties away from 0. A NaN must be a default one: others could become numbers
inline void store(float x, BFloat16& out) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  out.bits = static_cast<uint16_t>((bits + 0x8000U) >> 16);
}

inline void store(float x, float& out) { out = x; }
inline void store(double x, double& out) { out = x; }

// Position of an input in knot spacings from the middle of the grid, clamped to the outer knots.
// NaN stays, as the default NaN: both comparisons are false for it.
template <typename T>
void find_positions(const T* x, const T* middle, const T* spacings, T limit, int64_t features,
                    T* positions) {
#pragma omp simd
  for (int64_t i = 0; i < features; ++i) {
    const T position = (x[i] - middle[i]) * spacings[i];
    const T below = position < -limit ? -limit : position;
    const T inside = below > limit ? limit : below;
    positions[i] = inside != inside ? std::numeric_limits<T>::quiet_NaN() : inside;
  }
}

template <typename T>
inline T positive_part(T x) {
  return x < T(0) ? T(0) : x;
}

template <typename T, typename S>
void fill_bases(const T* positions, T limit, int64_t features, int64_t count, S* out) {
  for (int64_t basis = 0; basis < count; ++basis) {
    const T center = T(basis + 2) - limit;
    S* values = out + basis * features;
#pragma omp simd
    for (int64_t i = 0; i < features; ++i) {
      const T a = positive_part(T(2) - std::fabs(positions[i] - center));
      const T b = positive_part(a - T(1));
      store(a * a * a - T(4) * (b * b * b), values[i]);
    }
  }
}

template <typename T, typename S>
void fill_bases_and_sums(const T* positions, const S* grad, T limit, int64_t features,
                         int64_t count, S* out, T* sums) {
  for (int64_t i = 0; i < features; ++i) sums[i] = T(0);
  for (int64_t basis = 0; basis < count; ++basis) {
    const T center = T(basis + 2) - limit;
    const S* grads = grad + basis * features;
    S* values = out + basis * features;
#pragma omp simd
    for (int64_t i = 0; i < features; ++i) {
      const T u = positions[i] - center;
      const T a = positive_part(T(2) - std::fabs(u)), b = positive_part(a - T(1));
      store(a * a * a - T(4) * (b * b * b), values[i]);
      const T slope = T(3) * (a * a - T(4) * (b * b));
      sums[i] -= (u < T(0) ? -slope : slope) * widened(grads[i]);
    }
  }
}

template <typename T, typename S>
void bases(S* out, const T* x, const T* middle, const T* spacings, int64_t rows, int64_t features,
           int64_t count, int64_t stride, int threads) {
  const T limit = T(count + 3) / 2;
#pragma omp parallel num_threads(threads)
  {
    std::vector<T> positions(features);
#pragma omp for schedule(static)
    for (int64_t row = 0; row < rows; ++row) {
      find_positions(x + row * features, middle, spacings, limit, features, positions.data());
      fill_bases(positions.data(), limit, features, count, out + row * stride);
    }
  }
}

template <typename T, typename S>
void bases_and_input_gradient(S* out, const S* grad, T* grad_x, const T* x, const T* middle,
                              const T* spacings, int64_t rows, int64_t features, int64_t count,
                              int64_t stride, int threads) {
  const T limit = T(count + 3) / 2;
#pragma omp parallel num_threads(threads)
  {
    std::vector<T> positions(features);
#pragma omp for schedule(static)
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t start = row * stride;
      T* sums = grad_x + row * features;
      find_positions(x + row * features, middle, spacings, limit, features, positions.data());
      fill_bases_and_sums(positions.data(), grad + start, limit, features, count, out + start,
                          sums);
      for (int64_t i = 0; i < features; ++i) sums[i] *= spacings[i];
    }
  }
}

}  // namespace

#define WBCNETS_DEFINE(SUFFIX, T, S)                                                               \
  extern "C" void bases_##SUFFIX(S* out, const T* x, const T* middle, const T* spacings,           \
                                 int64_t rows, int64_t features, int64_t count, int64_t stride,    \
                                 int threads) {                                                    \
    bases<T, S>(out, x, middle, spacings, rows, features, count, stride, threads);                 \
  }                                                                                                \
  extern "C" void bases_and_input_gradient_##SUFFIX(                                               \
      S* out, const S* grad, T* grad_x, const T* x, const T* middle, const T* spacings,            \
      int64_t rows, int64_t features, int64_t count, int64_t stride, int threads) {                \
    bases_and_input_gradient<T, S>(out, grad, grad_x, x, middle, spacings, rows, features, count,  \
                                   stride, threads);                                               \
  }

WBCNETS_DEFINE(float32, float, float)
WBCNETS_DEFINE(float64, double, double)
WBCNETS_DEFINE(bfloat16, float, BFloat16)
