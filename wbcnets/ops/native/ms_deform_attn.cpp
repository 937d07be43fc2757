// Multi-scale deformable attention on processors: Zhu et al., "Deformable DETR", ICLR 2021,
// equation 3, and its gradients.
//
// One head of one image at a time: its values, 128 bytes per token with 32 channels, stay in the
// second-level cache during all queries. A query reads 4 * L * P rows and writes one; positions and
// weights of its points live in registers. In the backward pass one thread handles a whole head, so
// no other thread adds to that head's gradient of the values.

#include <cmath>
#include <cstdint>

namespace {

constexpr int64_t kQueriesAtOnce = 256;

struct Sizes {
  int64_t batch, tokens, heads, dim, queries, levels, points;
  const int64_t* shapes;  // height and width of every level
};

// The four rows around a point. A row outside the map has factor 0 and offset 0.
template <typename T>
struct Corners {
  int64_t offset[4];
  bool inside[4];
  T x, y;  // distance of the point from the upper left row, in [0, 1]
  bool any, broken;
};

template <typename T>
inline Corners<T> find_corners(T location_x, T location_y, int64_t height, int64_t width,
                               int64_t stride) {
  Corners<T> c;
  const T x = location_x * static_cast<T>(width) - T(0.5);
  const T y = location_y * static_cast<T>(height) - T(0.5);
  c.broken = std::isnan(x) || std::isnan(y);
  // Clamp huge coordinates before they overflow an integer. At -1 the value is 0 but its slope is
  // not, and the initial offsets put border tokens exactly there.
  c.any = x >= T(-1) && y >= T(-1) && x < static_cast<T>(width) && y < static_cast<T>(height);
  if (!c.any) return c;
  const T floor_x = std::floor(x), floor_y = std::floor(y);
  c.x = x - floor_x;
  c.y = y - floor_y;
  const int64_t left = static_cast<int64_t>(floor_x), top = static_cast<int64_t>(floor_y);
  for (int corner = 0; corner < 4; ++corner) {
    const int64_t column = left + (corner & 1), row = top + (corner >> 1);
    c.inside[corner] = column >= 0 && column < width && row >= 0 && row < height;
    c.offset[corner] = c.inside[corner] ? (row * width + column) * stride : 0;
  }
  return c;
}

template <typename T>
inline T bilinear_weight(const Corners<T>& c, int corner) {
  if (!c.inside[corner]) return T(0);
  const T along_x = (corner & 1) ? c.x : T(1) - c.x;
  const T along_y = (corner >> 1) ? c.y : T(1) - c.y;
  return along_x * along_y;
}

// FIXED is the number of channels if known at compile time, so sums stay in registers, else 0.
template <typename T, int FIXED>
void forward_query(const Sizes& s, const T* value, const T* locations, const T* weights, T* out) {
  const int64_t dim = FIXED ? FIXED : s.dim;
  const int64_t stride = s.heads * s.dim;
  T sum[FIXED ? FIXED : 1];
  T* total = FIXED ? sum : out;
  for (int64_t d = 0; d < dim; ++d) total[d] = T(0);
  const T* level_value = value;
  for (int64_t level = 0; level < s.levels; ++level) {
    const int64_t height = s.shapes[2 * level], width = s.shapes[2 * level + 1];
    for (int64_t point = 0; point < s.points; ++point, locations += 2, ++weights) {
      const Corners<T> c = find_corners(locations[0], locations[1], height, width, stride);
      if (c.broken) {
        for (int64_t d = 0; d < dim; ++d) total[d] = NAN;
      }
      if (!c.any) {
        // A weight that is not finite shows in the result, as 0 times it would elsewhere
        const T nothing = *weights * T(0);
        for (int64_t d = 0; d < dim; ++d) total[d] += nothing;
        continue;
      }
      const T* v0 = level_value + c.offset[0];
      const T* v1 = level_value + c.offset[1];
      const T* v2 = level_value + c.offset[2];
      const T* v3 = level_value + c.offset[3];
      const T a0 = *weights * bilinear_weight(c, 0), a1 = *weights * bilinear_weight(c, 1);
      const T a2 = *weights * bilinear_weight(c, 2), a3 = *weights * bilinear_weight(c, 3);
#pragma omp simd
      for (int64_t d = 0; d < dim; ++d) {
        total[d] += (a0 * v0[d] + a1 * v1[d]) + (a2 * v2[d] + a3 * v3[d]);
      }
    }
    level_value += height * width * stride;
  }
  if (FIXED) {
    for (int64_t d = 0; d < dim; ++d) out[d] = total[d];
  }
}

template <typename T, int FIXED>
void backward_query(const Sizes& s, const T* grad, const T* value, const T* locations,
                    const T* weights, T* grad_value, T* grad_locations, T* grad_weights) {
  const int64_t dim = FIXED ? FIXED : s.dim;
  const int64_t stride = s.heads * s.dim;
  const T* level_value = value;
  T* level_grad = grad_value;
  for (int64_t level = 0; level < s.levels; ++level) {
    const int64_t height = s.shapes[2 * level], width = s.shapes[2 * level + 1];
    for (int64_t point = 0; point < s.points;
         ++point, locations += 2, ++weights, grad_locations += 2, ++grad_weights) {
      const Corners<T> c = find_corners(locations[0], locations[1], height, width, stride);
      if (!c.any) {
        const T nothing = c.broken ? T(NAN) : T(0);
        *grad_weights = grad_locations[0] = grad_locations[1] = nothing;
        continue;
      }
      T dots[4];
      for (int corner = 0; corner < 4; ++corner) {
        const T* v = level_value + c.offset[corner];
        T* g = level_grad + c.offset[corner];
        const T factor = *weights * bilinear_weight(c, corner);
        T dot = T(0);
        if (c.inside[corner]) {
#pragma omp simd reduction(+ : dot)
          for (int64_t d = 0; d < dim; ++d) {
            dot += grad[d] * v[d];
            g[d] += factor * grad[d];
          }
        }
        dots[corner] = dot;
      }
      const T upper = (T(1) - c.x) * dots[0] + c.x * dots[1];
      const T lower = (T(1) - c.x) * dots[2] + c.x * dots[3];
      *grad_weights = (T(1) - c.y) * upper + c.y * lower;
      const T along_x = (T(1) - c.y) * (dots[1] - dots[0]) + c.y * (dots[3] - dots[2]);
      grad_locations[0] = *weights * static_cast<T>(width) * along_x;
      grad_locations[1] = *weights * static_cast<T>(height) * (lower - upper);
    }
    level_value += height * width * stride;
    level_grad += height * width * stride;
  }
}

template <typename T, int FIXED>
void forward(const Sizes& s, const T* value, const T* locations, const T* weights, T* out,
             int threads) {
  const int64_t samples = s.levels * s.points;
  const int64_t blocks = (s.queries + kQueriesAtOnce - 1) / kQueriesAtOnce;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t task = 0; task < s.batch * s.heads * blocks; ++task) {
    const int64_t block = task % blocks, head = task / blocks % s.heads;
    const int64_t image = task / blocks / s.heads;
    const int64_t first = block * kQueriesAtOnce;
    const int64_t last = first + kQueriesAtOnce < s.queries ? first + kQueriesAtOnce : s.queries;
    const T* head_value = value + (image * s.tokens * s.heads + head) * s.dim;
    for (int64_t query = first; query < last; ++query) {
      const int64_t row = (image * s.queries + query) * s.heads + head;
      forward_query<T, FIXED>(s, head_value, locations + row * samples * 2,
                              weights + row * samples, out + row * s.dim);
    }
  }
}

template <typename T, int FIXED>
void backward(const Sizes& s, const T* grad, const T* value, const T* locations, const T* weights,
              T* grad_value, T* grad_locations, T* grad_weights, int threads) {
  const int64_t samples = s.levels * s.points;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t task = 0; task < s.batch * s.heads; ++task) {
    const int64_t head = task % s.heads, image = task / s.heads;
    const int64_t start = (image * s.tokens * s.heads + head) * s.dim;
    for (int64_t query = 0; query < s.queries; ++query) {
      const int64_t row = (image * s.queries + query) * s.heads + head;
      backward_query<T, FIXED>(s, grad + row * s.dim, value + start,
                               locations + row * samples * 2, weights + row * samples,
                               grad_value + start, grad_locations + row * samples * 2,
                               grad_weights + row * samples);
    }
  }
}

}  // namespace

#define WBCNETS_BY_DIM(CALL)      \
  switch (s.dim) {                \
    case 16: CALL(16); break;     \
    case 32: CALL(32); break;     \
    case 64: CALL(64); break;     \
    default: CALL(0); break;      \
  }

#define WBCNETS_DEFINE(SUFFIX, T)                                                                \
  extern "C" void forward_##SUFFIX(const T* value, const T* locations, const T* weights, T* out, \
                                   const int64_t* shapes, int64_t batch, int64_t tokens,         \
                                   int64_t heads, int64_t dim, int64_t queries, int64_t levels,  \
                                   int64_t points, int threads) {                                \
    const Sizes s{batch, tokens, heads, dim, queries, levels, points, shapes};                   \
    WBCNETS_BY_DIM(WBCNETS_FORWARD_##SUFFIX)                                                     \
  }                                                                                              \
  extern "C" void backward_##SUFFIX(const T* grad, const T* value, const T* locations,           \
                                    const T* weights, T* grad_value, T* grad_locations,          \
                                    T* grad_weights, const int64_t* shapes, int64_t batch,       \
                                    int64_t tokens, int64_t heads, int64_t dim, int64_t queries, \
                                    int64_t levels, int64_t points, int threads) {               \
    const Sizes s{batch, tokens, heads, dim, queries, levels, points, shapes};                   \
    WBCNETS_BY_DIM(WBCNETS_BACKWARD_##SUFFIX)                                                    \
  }

#define WBCNETS_FORWARD_float32(DIM) \
  forward<float, DIM>(s, value, locations, weights, out, threads)
#define WBCNETS_FORWARD_float64(DIM) \
  forward<double, DIM>(s, value, locations, weights, out, threads)
#define WBCNETS_BACKWARD_float32(DIM)                                                       \
  backward<float, DIM>(s, grad, value, locations, weights, grad_value, grad_locations,      \
                       grad_weights, threads)
#define WBCNETS_BACKWARD_float64(DIM)                                                       \
  backward<double, DIM>(s, grad, value, locations, weights, grad_value, grad_locations,     \
                        grad_weights, threads)

WBCNETS_DEFINE(float32, float)
WBCNETS_DEFINE(float64, double)
