// Dropout whose mask is a hash of seed and index. The backward pass recomputes the mask, which is
// never stored; the result does not depend on the number of threads.
//
// The hash is two rounds of a 32-bit finalizer with low bias, with constants from Wellons
// ("Prospecting for Hash Functions", 2018).

#include <cstdint>

namespace {

inline uint32_t mix(uint32_t x) {
  x ^= x >> 16;
  x *= 0x7feb352dU;
  x ^= x >> 15;
  x *= 0x846ca68bU;
  x ^= x >> 16;
  return x;
}

constexpr int64_t kBlock = 1 << 16;

// Calls body(first, last, low, high) for blocks of indices. low and high are the seed mixed with the
// number of the block, so indices inside need only 32 bits.
template <typename Body>
void for_blocks(int64_t count, uint64_t seed, int threads, Body body) {
  const int64_t blocks = (count + kBlock - 1) / kBlock;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t first = block * kBlock;
    const int64_t last = first + kBlock < count ? first + kBlock : count;
    const uint32_t low = mix(static_cast<uint32_t>(seed) ^ static_cast<uint32_t>(block));
    const uint32_t high = static_cast<uint32_t>(seed >> 32) + static_cast<uint32_t>(block >> 32);
    body(first, last, low, high);
  }
}

inline bool is_kept(int64_t index, uint32_t low, uint32_t high, uint32_t threshold) {
  return mix(mix(static_cast<uint32_t>(index) ^ low) + high) >= threshold;
}

template <typename T>
void relu_dropout(T* x, int64_t count, uint64_t seed, uint32_t threshold, T scale, int threads) {
  for_blocks(count, seed, threads, [=](int64_t first, int64_t last, uint32_t low, uint32_t high) {
#pragma omp simd
    for (int64_t i = first; i < last; ++i) {
      const T kept = is_kept(i - first, low, high, threshold) ? scale : T(0);
      x[i] = (x[i] < T(0) ? T(0) : x[i]) * kept;  // NaN is not below 0 and stays
    }
  });
}

template <typename T>
void relu_dropout_backward(const T* grad, const T* out, T* grad_x, int64_t count, T scale,
                           int threads) {
#pragma omp parallel for simd num_threads(threads) schedule(static)
  for (int64_t i = 0; i < count; ++i) {
    grad_x[i] = out[i] == T(0) ? T(0) : grad[i] * scale;
  }
}

template <typename T>
void add_dropout(const T* residual, T* x, int64_t count, uint64_t seed, uint32_t threshold, T scale,
                 int threads) {
  for_blocks(count, seed, threads, [=](int64_t first, int64_t last, uint32_t low, uint32_t high) {
#pragma omp simd
    for (int64_t i = first; i < last; ++i) {
      const T kept = is_kept(i - first, low, high, threshold) ? scale : T(0);
      x[i] = residual[i] + x[i] * kept;
    }
  });
}

template <typename T>
void add_dropout_backward(const T* grad, T* grad_x, int64_t count, uint64_t seed,
                          uint32_t threshold, T scale, int threads) {
  for_blocks(count, seed, threads, [=](int64_t first, int64_t last, uint32_t low, uint32_t high) {
#pragma omp simd
    for (int64_t i = first; i < last; ++i) {
      const T kept = is_kept(i - first, low, high, threshold) ? scale : T(0);
      grad_x[i] = grad[i] * kept;
    }
  });
}

}  // namespace

#define WBCNETS_DEFINE(SUFFIX, T)                                                                 \
  extern "C" void relu_dropout_##SUFFIX(T* x, int64_t count, uint64_t seed, uint32_t threshold,   \
                                        double scale, int threads) {                              \
    relu_dropout<T>(x, count, seed, threshold, static_cast<T>(scale), threads);                   \
  }                                                                                               \
  extern "C" void relu_dropout_backward_##SUFFIX(const T* grad, const T* out, T* grad_x,          \
                                                 int64_t count, uint64_t, uint32_t, double scale, \
                                                 int threads) {                                   \
    relu_dropout_backward<T>(grad, out, grad_x, count, static_cast<T>(scale), threads);           \
  }                                                                                               \
  extern "C" void add_dropout_##SUFFIX(const T* residual, T* x, int64_t count, uint64_t seed,     \
                                       uint32_t threshold, double scale, int threads) {           \
    add_dropout<T>(residual, x, count, seed, threshold, static_cast<T>(scale), threads);          \
  }                                                                                               \
  extern "C" void add_dropout_backward_##SUFFIX(const T* grad, T* grad_x, int64_t count,          \
                                                uint64_t seed, uint32_t threshold, double scale,  \
                                                int threads) {                                    \
    add_dropout_backward<T>(grad, grad_x, count, seed, threshold, static_cast<T>(scale), threads); \
  }

WBCNETS_DEFINE(float32, float)
WBCNETS_DEFINE(float64, double)
