// Cubic B-spline bases on evenly spaced knots, and their slopes. PyTorch computes the two matrix
// products of the KAN layer around these loops.
//
// With u the distance from the middle of a basis in knot spacings,
// B(u) = (a^3 - 4 b^3) / 6 and B'(u) = -sign(u) (a^2 - 4 b^2) / 2, where a = (2 - |u|)_+ and
// b = (1 - |u|)_+ (de Boor, "A Practical Guide to Splines", chapter IX). As in
// wbcnets/ops/kan_spline/cardinal.py, bases come six times as large, as (rows, n, I); an input is
// read once for all its bases.

#include <cmath>
#include <cstdint>
#include <vector>

namespace {

// Position of an input in knot spacings from the middle of the grid, clamped to the outer knots.
// NaN stays: both comparisons are false for it.
template <typename T>
void find_positions(const T* x, const T* middle, const T* spacings, T limit, int64_t features,
                    T* positions) {
#pragma omp simd
  for (int64_t i = 0; i < features; ++i) {
    const T position = (x[i] - middle[i]) * spacings[i];
    const T below = position < -limit ? -limit : position;
    positions[i] = below > limit ? limit : below;
  }
}

template <typename T>
inline T positive_part(T x) {
  return x < T(0) ? T(0) : x;
}

template <typename T>
void fill_bases(const T* positions, T limit, int64_t features, int64_t count, T* out) {
  for (int64_t basis = 0; basis < count; ++basis) {
    const T center = T(basis + 2) - limit;
    T* values = out + basis * features;
#pragma omp simd
    for (int64_t i = 0; i < features; ++i) {
      const T a = positive_part(T(2) - std::fabs(positions[i] - center));
      const T b = positive_part(a - T(1));
      values[i] = a * a * a - T(4) * (b * b * b);
    }
  }
}

template <typename T>
void fill_bases_and_sums(const T* positions, const T* grad, T limit, int64_t features,
                         int64_t count, T* out, T* sums) {
  for (int64_t i = 0; i < features; ++i) sums[i] = T(0);
  for (int64_t basis = 0; basis < count; ++basis) {
    const T center = T(basis + 2) - limit;
    const T* grads = grad + basis * features;
    T* values = out + basis * features;
#pragma omp simd
    for (int64_t i = 0; i < features; ++i) {
      const T u = positions[i] - center;
      const T a = positive_part(T(2) - std::fabs(u)), b = positive_part(a - T(1));
      values[i] = a * a * a - T(4) * (b * b * b);
      const T slope = T(3) * (a * a - T(4) * (b * b));
      sums[i] -= (u < T(0) ? -slope : slope) * grads[i];
    }
  }
}

template <typename T>
void bases(const T* x, const T* middle, const T* spacings, T* out, int64_t rows, int64_t features,
           int64_t count, int threads) {
  const T limit = T(count + 3) / 2;
#pragma omp parallel num_threads(threads)
  {
    std::vector<T> positions(features);
#pragma omp for schedule(static)
    for (int64_t row = 0; row < rows; ++row) {
      find_positions(x + row * features, middle, spacings, limit, features, positions.data());
      fill_bases(positions.data(), limit, features, count, out + row * count * features);
    }
  }
}

template <typename T>
void bases_and_input_gradient(const T* x, const T* grad, const T* middle, const T* spacings, T* out,
                              T* grad_x, int64_t rows, int64_t features, int64_t count,
                              int threads) {
  const T limit = T(count + 3) / 2;
#pragma omp parallel num_threads(threads)
  {
    std::vector<T> positions(features);
#pragma omp for schedule(static)
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t start = row * count * features;
      T* sums = grad_x + row * features;
      find_positions(x + row * features, middle, spacings, limit, features, positions.data());
      fill_bases_and_sums(positions.data(), grad + start, limit, features, count, out + start,
                          sums);
      for (int64_t i = 0; i < features; ++i) sums[i] *= spacings[i];
    }
  }
}

}  // namespace

#define WBCNETS_DEFINE(SUFFIX, T)                                                                \
  extern "C" void bases_##SUFFIX(const T* x, const T* middle, const T* spacings, T* out,         \
                                 int64_t rows, int64_t features, int64_t count, int threads) {   \
    bases<T>(x, middle, spacings, out, rows, features, count, threads);                          \
  }                                                                                              \
  extern "C" void bases_and_input_gradient_##SUFFIX(                                             \
      const T* x, const T* grad, const T* middle, const T* spacings, T* out, T* grad_x,          \
      int64_t rows, int64_t features, int64_t count, int threads) {                              \
    bases_and_input_gradient<T>(x, grad, middle, spacings, out, grad_x, rows, features, count,   \
                                threads);                                                        \
  }

WBCNETS_DEFINE(float32, float)
WBCNETS_DEFINE(float64, double)
