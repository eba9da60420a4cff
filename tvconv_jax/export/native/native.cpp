// Runs exported models on a CPU; native.py compiles this file on the device, plans the operations and calls run().
//
// A model is a list of operations with a barrier after each. The one that matters is the block: a pointwise
// convolution that expands (or the stem's convolution, or a copy), a spatial operator, a pointwise convolution that
// projects, and the addition of a shortcut. It walks down the rows of an image with a few channels at a time; of the wide
// tensor only the `kernel` newest rows of these channels exist, in a ring that stays in the first caches. So the wide
// tensor never meets memory, and of per-pixel weights, which are as large, every number is read once for all images of
// a group, in the order in which it lies in memory.
//
// Tensors are [n, h, w, channels], channels padded to whole vectors. Vectors are GCC's, for any instruction set.

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

namespace {

// PANEL: vectors of output channels in a register tile of 6 pixels; both fill the registers.
#if defined(__AVX512F__)
constexpr int LANES = 16, PANEL = 4;
#elif defined(__AVX__)
constexpr int LANES = 8, PANEL = 2;
#elif defined(__aarch64__)
constexpr int LANES = 4, PANEL = 4;
#else
constexpr int LANES = 4, PANEL = 2;
#endif

template <int L>
struct Lanes {
  typedef float type __attribute__((vector_size(4 * L)));
};
using Wide = Lanes<LANES>::type;
using Narrow = Lanes<(LANES > 8 ? 8 : LANES)>::type;  // for channel counts that would leave half of Wide empty

template <class V>
constexpr int lanes = sizeof(V) / 4;

// A vector at any address: as an argument of a template a type loses its alignment.
template <class V>
struct Anywhere {
  typedef float type __attribute__((vector_size(sizeof(V)), aligned(4), may_alias));
};

template <class V>
V load(const float* from) {
  return *reinterpret_cast<const typename Anywhere<V>::type*>(from);
}

template <class V>
void store(float* to, V value) {
  *reinterpret_cast<typename Anywhere<V>::type*>(to) = value;
}

template <class V>
V clamp(V value, float low, float high) {
  V lowest = V{} + low, highest = V{} + high;
  value = value > lowest ? value : lowest;
  return value < highest ? value : highest;
}

// Bytes of the second cache: a quarter is for a row tile's weights, half for the rings of a group of images.
int64_t second_cache() {
#ifdef _SC_LEVEL2_CACHE_SIZE
  static const int64_t size = sysconf(_SC_LEVEL2_CACHE_SIZE);
  if (size > 0) return std::min<int64_t>(size, 1 << 20);
#endif
  return 512 << 10;
}

enum Kind { BLOCK, MAX_POOL, MOVE, ADD, MEAN, LINEAR, CONV, RESIZE };
enum Producer { COPY, POINTWISE, STEM };
enum Spatial { NONE, DEPTHWISE, PER_PIXEL, LOW_RANK };

// Location of a tensor: `base` floats an image, from the arena's start; -1: nowhere.
struct Tensor {
  int64_t base, channel, stride, height, width, channels;
};

// A number of vectors in `parts` parts of nearly the same size; part i begins at vectors * i / parts.
struct Parts {
  int64_t vectors, lanes, parts;
  int64_t begin(int64_t part) const { return vectors * part / parts; }
};

struct Range {
  float low, high;
};

// Mirrored, field by field, in native.py. `pad` pixels lie around the wide tensor, or around the input of a convolution
// over all channels; with `border` they are what the pointwise convolution makes of zeros, else zeros.
struct Op {
  int64_t kind, producer, spatial, kernel, strides, stem_kernel, stem_strides, rank, bias_map, step, project;
  int64_t pad, dilation, border, stem_pad;
  Tensor in, other, wide, out;
  Parts middle, last;
  const float *produce_weights, *produce_bias, *weights, *gains, *bias, *project_weights, *project_bias;
  Range produce_range, range, project_range;

  int64_t reach() const { return (kernel - 1) * dilation + 1; }  // rows of the wide tensor that the kernel sees
};

// Bytes that will be read soon; products fetch `step` of them with every number they sum over, because memory is idle
// meanwhile.
struct Ahead {
  const char *at = nullptr, *end = nullptr;
  int64_t step = 0;
  void fetch() {
    if (at >= end) return;
    for (int64_t i = 0; i < step; i += 64) __builtin_prefetch(at + i, 0, 2);
    at += step;
  }
};

struct Run {
  const Op* ops;
  int64_t count, images;
  const float* pixels;
  float* arena;

  float* at(const Tensor& tensor, int64_t image, int64_t row = 0) const {
    int64_t rows = image * tensor.height + row;
    return arena + tensor.base * images + rows * tensor.width * tensor.stride + tensor.channel;
  }
};

// c[i] = clamp(begin + sum_k a[i * lda + offsets[k]] * weights[k]) + other[i], for vectors of output channels; begin is
// the bias for the first part of the sum and c for the others; only the last part is clamped.
struct Product {
  const float* a;
  int64_t lda;
  const int* offsets;
  int64_t k;
  const float *weights, *bias;
  float* c;
  int64_t ldc;
  const float* other;
  int64_t ldo;
  bool first, last;
  Range range;
  Ahead* ahead;
};

template <class V, int ROWS, int COLUMNS>
void tile(const Product& p, int64_t row, int64_t column, const float* weights) {
  constexpr int L = lanes<V>;
  const float* a = p.a + row * p.lda;
  float* c = p.c + row * p.ldc + column;
  const int64_t lda = p.lda, k = p.k;
  const int* offsets = p.offsets;
  Ahead ahead = *p.ahead;
  V sum[ROWS][COLUMNS];
#pragma GCC unroll 12
  for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
    for (int j = 0; j < COLUMNS; j++)
      sum[i][j] = load<V>(p.first ? p.bias + column + j * L : c + i * p.ldc + j * L);
  for (int64_t t = 0; t < k; t++, weights += COLUMNS * L) {
    ahead.fetch();
    const float* at = a + offsets[t];
    V w[COLUMNS];
#pragma GCC unroll 4
    for (int j = 0; j < COLUMNS; j++) w[j] = load<V>(weights + j * L);
#pragma GCC unroll 12
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
      for (int j = 0; j < COLUMNS; j++) sum[i][j] += at[i * lda] * w[j];
  }
  *p.ahead = ahead;
#pragma GCC unroll 12
  for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
    for (int j = 0; j < COLUMNS; j++) {
      if (p.last) {
        sum[i][j] = clamp(sum[i][j], p.range.low, p.range.high);
        if (p.other) sum[i][j] += load<V>(p.other + (row + i) * p.ldo + column + j * L);
      }
      store(c + i * p.ldc + j * L, sum[i][j]);
    }
}

template <class V, int COLUMNS>
void panel(const Product& p, int64_t rows, int64_t column, const float* weights) {
  constexpr int ROWS = COLUMNS == 1 ? 12 : 6;
  int64_t i = 0;
  for (; i + ROWS <= rows; i += ROWS) tile<V, ROWS, COLUMNS>(p, i, column, weights);
  for (; i + 4 <= rows; i += 4) tile<V, 4, COLUMNS>(p, i, column, weights);
  for (; i + 2 <= rows; i += 2) tile<V, 2, COLUMNS>(p, i, column, weights);
  if (i < rows) tile<V, 1, COLUMNS>(p, i, column, weights);
}

// All panels of output channels in `parts`; weights are [panel][k][vectors of the panel].
template <class V>
void product(const Product& p, int64_t rows, const Parts& parts) {
  for (int64_t i = 0; i < parts.parts; i++) {
    int64_t begin = parts.begin(i), column = begin * lanes<V>;
    const float* weights = p.weights + column * p.k;
    switch (parts.begin(i + 1) - begin) {
      case 1: panel<V, 1>(p, rows, column, weights); break;
      case 2: panel<V, 2>(p, rows, column, weights); break;
      case 3: panel<V, PANEL == 4 ? 3 : 1>(p, rows, column, weights); break;
      case 4: panel<V, PANEL == 4 ? 4 : 1>(p, rows, column, weights); break;
    }
  }
}

void product(const Product& p, int64_t rows, const Parts& parts) {
  parts.lanes == LANES ? product<Wide>(p, rows, parts) : product<Narrow>(p, rows, parts);
}

// One row of a spatial operator: `rows` of the wide tensor, [padded width][channels] each, to `to`, [width][stride].
struct Row {
  const float* const* rows;
  int64_t kernel, strides, dilation, width, channels;
  const float *weights, *gains, *bias;
  int64_t rank, bias_map;
  float* to;
  int64_t stride;
  Range range;
};

// Weights are [vector][width][tap][lanes]. K is the kernel's size where it is known.
template <class V, int K>
void per_pixel(const Row& r) {
  constexpr int L = lanes<V>;
  const int64_t size = K ? K : r.kernel, channels = r.channels;
  const float *weights = r.weights, *bias = r.bias;
  for (int64_t c = 0; c < channels; c += L) {
    for (int64_t x = 0; x < r.width; x++) {
      V sum = load<V>(bias);
      for (int64_t i = 0; i < size; i++) {
        const float* from = r.rows[i] + x * r.strides * channels + c;
        for (int64_t j = 0; j < size; j++, weights += L) sum += load<V>(from + j * channels) * load<V>(weights);
      }
      store(r.to + x * r.stride + c, clamp(sum, r.range.low, r.range.high));
      bias += r.bias_map ? L : 0;
    }
    bias += r.bias_map ? 0 : L;
  }
}

// Weights are [vector][rank][tap][lanes], gains [vector][rank][width][lanes]; without gains a depthwise convolution.
template <class V, int K, bool GAINS>
void low_rank(const Row& r) {
  constexpr int L = lanes<V>;
  const int64_t size = K ? K : r.kernel, channels = r.channels, taps = size * size, step = r.dilation * channels;
  const float *weights = r.weights, *gains = r.gains;
  for (int64_t c = 0; c < channels; c += L) {
    for (int64_t rank = 0; rank < r.rank; rank++, weights += taps * L) {
      const float* bias = r.bias + c * (r.bias_map ? r.width : 1);
      for (int64_t x = 0; x < r.width; x++) {
        V sum{};
        for (int64_t i = 0; i < size; i++) {
          const float* from = r.rows[i] + x * r.strides * channels + c;
          for (int64_t j = 0; j < size; j++)
            sum += load<V>(from + j * step) * load<V>(weights + (i * size + j) * L);
        }
        float* to = r.to + x * r.stride + c;
        if (GAINS) sum *= load<V>(gains + x * L);
        sum += load<V>(rank ? to : bias + (r.bias_map ? x * L : 0));
        store(to, rank + 1 == r.rank ? clamp(sum, r.range.low, r.range.high) : sum);
      }
      gains += r.width * L;
    }
  }
}

template <class V, int K>
void spatial(const Op& op, const Row& row) {
  if (op.spatial == PER_PIXEL) per_pixel<V, K>(row);
  if (op.spatial == DEPTHWISE) low_rank<V, K, false>(row);
  if (op.spatial == LOW_RANK) low_rank<V, K, true>(row);
}

template <class V>
void spatial(const Op& op, const Row& row) {
  if (op.kernel == 3) return spatial<V, 3>(op, row);
  if (op.kernel == 5) return spatial<V, 5>(op, row);
  spatial<V, 0>(op, row);
}

// A thread's memory for the rows it works on; aligned, kept from run to run.
class Scratch {
 public:
  ~Scratch() { std::free(memory_); }
  float* floats(size_t count) {
    if (count > size_) {
      std::free(memory_);
      size_ = (count + 15) / 16 * 16;
      memory_ = static_cast<float*>(std::aligned_alloc(64, 4 * size_));
    }
    return memory_;
  }

 private:
  float* memory_ = nullptr;
  size_t size_ = 0;
};

constexpr int MAX_SUM = 4096;  // most numbers in one sum of a product: channels, or the stem's taps

struct Identity {
  int offsets[MAX_SUM];
  Identity() { for (int i = 0; i < MAX_SUM; i++) offsets[i] = i; }
} identity;

// Some images, some rows of one block operation.
class Block {
 public:
  Block(const Op& op, const Run& run, Scratch& scratch, int64_t image, int64_t images, int64_t begin, int64_t end)
      : op_(op), run_(run), image_(image), images_(images), begin_(begin), end_(end) {
    pad_ = op.pad, reach_ = op.reach();
    padded_ = op.wide.width + 2 * pad_;
    int64_t ring = images * reach_ * padded_ * widest(op), row = op.out.width * widest(op);
    ring_ = scratch.floats(ring + row + 3 * op.stem_kernel * (op.in.width + 2 * op.stem_kernel));
    row_ = ring_ + ring;
    stem_ = row_ + row;
  }

  void run() {
    for (int64_t part = 0; part < op_.middle.parts; part++) {
      first_ = op_.middle.begin(part) * op_.middle.lanes;
      channels_ = op_.middle.begin(part + 1) * op_.middle.lanes - first_;
      if (op_.spatial == NONE) {
        for (int64_t i = 0; i < images_; i++)
          for (int64_t y = begin_; y < end_; y++) {
            float* to = run_.at(op_.out, image_ + i, y) + first_;
            fill(i, y - pad_, to + pad_ * op_.out.stride, op_.out.stride);
            pad(to, op_.out.stride);
          }
        continue;
      }
      walk(part);
    }
  }

  static int64_t widest(const Op& op) {
    return (op.middle.vectors + op.middle.parts - 1) / op.middle.parts * op.middle.lanes;
  }

  static int64_t images_in_cache(const Op& op) {
    return std::max<int64_t>(1, second_cache() / 2 / (4 * op.reach() * (op.wide.width + 2 * op.pad) * widest(op)));
  }

  // Rows that are done for all images before the next ones: as many as keep their weights in the cache.
  static int64_t tile_rows(const Op& op) {
    if (op.spatial != PER_PIXEL) return op.out.height;
    int64_t row = op.out.width * op.kernel * op.kernel * widest(op) * 4;
    return std::max<int64_t>(1, second_cache() / 4 / row);
  }

 private:
  float* ring(int64_t i, int64_t y) { return ring_ + (i * reach_ + (y + pad_) % reach_) * padded_ * channels_; }

  void walk(int64_t part) {
    std::vector<int64_t> next(images_, begin_ * op_.strides - pad_);
    for (int64_t row = 0; row < images_ * reach_; row++) pad(ring_ + row * padded_ * channels_, channels_);
    const int64_t step = tile_rows(op_);
    for (int64_t y0 = begin_; y0 < end_; y0 += step)
      for (int64_t i = 0; i < images_; i++)
        for (int64_t y = y0; y < std::min(end_, y0 + step); y++) {
          if (i == 0) look_ahead(y, part);
          for (; next[i] < y * op_.strides - pad_ + reach_; next[i]++)
            fill(i, next[i], ring(i, next[i]) + pad_ * channels_, channels_);
          convolve(i, y, part);
        }
  }

  // The next row's per-pixel weights are fetched while this row's products run.
  void look_ahead(int64_t y, int64_t part) {
    if (op_.spatial != PER_PIXEL) return;
    const int64_t row = op_.out.width * op_.kernel * op_.kernel * channels_;
    const float* at = op_.weights + first_ * op_.out.height * op_.out.width * op_.kernel * op_.kernel + (y + 1) * row;
    if (y + 1 == end_) {
      if (part + 1 == op_.middle.parts) return;
      at += (op_.out.height - end_ + begin_) * row;
    }
    // About how many numbers the row's products sum over, tile after tile of 6 pixels.
    const int64_t seen = op_.producer == COPY ? 0 : op_.in.channels * op_.stem_kernel * op_.stem_kernel;
    const int64_t narrowed = op_.project ? channels_ * op_.last.parts : 0;
    const int64_t sums = op_.wide.width / 6 * op_.strides * seen + op_.out.width / 6 * narrowed + 1;
    ahead_ = {reinterpret_cast<const char*>(at), reinterpret_cast<const char*>(at + row), (row / 16 / sums + 1) * 64};
  }

  // Both ends of a padded row.
  void pad(float* row, int64_t stride) {
    border(row, pad_, stride);
    border(row + (pad_ + op_.wide.width) * stride, pad_, stride);
  }

  void border(float* to, int64_t pixels, int64_t stride) {
    const float *bias = op_.produce_bias + first_, low = op_.produce_range.low, high = op_.produce_range.high;
    for (int64_t x = 0; x < pixels; x++, to += stride)
      for (int64_t c = 0; c < channels_; c++) to[c] = op_.border ? std::min(std::max(bias[c], low), high) : 0;
  }

  // Row y of the wide tensor, or of its padding.
  void fill(int64_t i, int64_t y, float* to, int64_t stride) {
    if (y < 0 || y >= op_.wide.height) {
      border(to, op_.wide.width, stride);
    } else {
      produce(i, y, to, stride);
    }
  }

  void produce(int64_t i, int64_t y, float* to, int64_t stride) {
    const Tensor& in = op_.in;
    const float* from = op_.producer == STEM ? nullptr : run_.at(in, image_ + i, y);
    if (op_.producer == COPY) {
      int64_t channels = std::min(channels_, in.channels - first_);
      for (int64_t x = 0; x < in.width; x++) {
        std::memcpy(to + x * stride, from + x * in.stride + first_, 4 * channels);
        std::memset(to + x * stride + channels, 0, 4 * (channels_ - channels));
      }
      return;
    }
    Product p{from, in.stride, identity.offsets, in.channels, op_.produce_weights, op_.produce_bias + first_, to,
              stride, nullptr, 0, true, true, op_.produce_range, &ahead_};
    if (op_.producer == STEM) see(i, y, p);
    p.weights += first_ * p.k;
    Parts parts{channels_ / op_.middle.lanes, op_.middle.lanes, 1};
    product(p, op_.wide.width, parts);
  }

  // The rows of an image [channel][h][w] that row y of the stem sees, padded; its taps at their offsets in them.
  void see(int64_t i, int64_t y, Product& p) {
    const Tensor& in = op_.in;
    const int64_t size = op_.stem_kernel, pad = op_.stem_pad, width = in.width + 2 * pad;
    const float* image = run_.pixels + (image_ + i) * in.channels * in.height * in.width;
    for (int64_t c = 0, tap = 0; c < in.channels; c++)
      for (int64_t t = 0; t < size; t++) {
        int64_t at = y * op_.stem_strides - pad + t;
        float* to = stem_ + (c * size + t) * width;
        std::memset(to, 0, 4 * width);
        if (at >= 0 && at < in.height) std::memcpy(to + pad, image + (c * in.height + at) * in.width, 4 * in.width);
        for (int64_t j = 0; j < size; j++) offsets_[tap++] = (c * size + t) * width + j;
      }
    p.a = stem_, p.lda = op_.stem_strides, p.offsets = offsets_, p.k = in.channels * size * size;
  }

  void convolve(int64_t i, int64_t y, int64_t part) {
    const float* rows[64];
    for (int64_t t = 0; t < op_.kernel; t++) rows[t] = ring(i, y * op_.strides - pad_ + t * op_.dilation);
    const int64_t taps = op_.kernel * op_.kernel, width = op_.out.width, height = op_.out.height;
    float* out = run_.at(op_.out, image_ + i, y);
    Row row{rows, op_.kernel, op_.strides, op_.dilation, width, channels_, op_.weights, op_.gains, op_.bias, op_.rank,
            op_.bias_map, op_.project ? row_ : out + first_, op_.project ? channels_ : op_.out.stride, op_.range};
    const int64_t pixels = op_.bias_map ? first_ * height * width + y * channels_ * width : first_;
    row.bias += pixels;
    const int64_t map = first_ * height * width + y * channels_ * width;
    row.weights += op_.spatial == PER_PIXEL ? map * taps : first_ * op_.rank * taps;
    row.gains += op_.spatial == LOW_RANK ? map * op_.rank : 0;
    op_.middle.lanes == LANES ? spatial<Wide>(op_, row) : spatial<Narrow>(op_, row);
    if (!op_.project) return;
    const float* other = op_.other.base < 0 ? nullptr : run_.at(op_.other, image_ + i, y);
    Product p{row_, channels_, identity.offsets, channels_,
              op_.project_weights + first_ * op_.last.vectors * op_.last.lanes, op_.project_bias, out, op_.out.stride,
              other, op_.other.stride, part == 0, part + 1 == op_.middle.parts, op_.project_range, &ahead_};
    product(p, width, op_.last);
  }

  const Op& op_;
  const Run& run_;
  int64_t image_, images_, begin_, end_, pad_, reach_, padded_, first_, channels_;
  float *ring_, *row_, *stem_;
  int offsets_[MAX_SUM];
  Ahead ahead_;
};

void max_pool(const Op& op, const Run& run, int64_t image, int64_t y) {
  float* to = run.at(op.out, image, y);
  for (int64_t x = 0; x < op.out.width; x++, to += op.out.stride) {
    std::fill(to, to + op.out.channels, -3e38f);
    for (int64_t i = std::max<int64_t>(0, 2 * y - 1); i <= std::min(op.in.height - 1, 2 * y + 1); i++)
      for (int64_t j = std::max<int64_t>(0, 2 * x - 1); j <= std::min(op.in.width - 1, 2 * x + 1); j++) {
        const float* from = run.at(op.in, image, i) + j * op.in.stride;
        for (int64_t c = 0; c < op.out.channels; c++) to[c] = std::max(to[c], from[c]);
      }
  }
}

// Channels to every `step`-th channel from out.channel on.
void move(const Op& op, const Run& run, int64_t image, int64_t y) {
  const float* from = run.at(op.in, image, y);
  float* to = run.at(op.out, image, y);
  for (int64_t x = 0; x < op.in.width; x++, from += op.in.stride, to += op.out.stride)
    if (op.step == 1) {
      std::memcpy(to, from, 4 * op.in.channels);
    } else {
      for (int64_t c = 0; c < op.in.channels; c++) to[c * op.step] = from[c];
    }
}

void add(const Op& op, const Run& run, int64_t image, int64_t y) {
  const float *one = run.at(op.in, image, y), *other = run.at(op.other, image, y);
  float* to = run.at(op.out, image, y);
  for (int64_t x = 0; x < op.in.width; x++, one += op.in.stride, other += op.other.stride, to += op.out.stride)
    for (int64_t c = 0; c < op.in.channels; c++) to[c] = one[c] + other[c];
}

void mean(const Op& op, const Run& run, int64_t image, int64_t) {
  const int64_t pixels = op.in.height * op.in.width;
  const float* from = run.at(op.in, image);
  float* to = run.at(op.out, image);
  std::fill(to, to + op.in.channels, 0.0f);
  for (int64_t x = 0; x < pixels; x++, from += op.in.stride)
    for (int64_t c = 0; c < op.in.channels; c++) to[c] += from[c];
  for (int64_t c = 0; c < op.in.channels; c++) to[c] /= pixels;
}

// One panel of output channels, for all images.
void linear(const Op& op, const Run& run, int64_t part) {
  Ahead none;
  const int64_t begin = op.last.begin(part), column = begin * op.last.lanes;
  Product p{run.at(op.in, 0), op.in.stride, identity.offsets, op.in.channels, op.project_weights,
            op.project_bias + column, run.at(op.out, 0) + column, op.out.stride, nullptr, 0, true, true,
            op.project_range, &none};
  p.weights += column * p.k;
  product(p, run.images, {op.last.begin(part + 1) - begin, op.last.lanes, 1});
}

// Bands of rows of a convolution over all channels: with enough pixels to use each weight often, for all threads.
int64_t bands(const Op& op, int64_t images, int threads) {
  int64_t found = (op.out.height * op.out.width + 191) / 192;
  while (images * op.last.parts * found < 2 * threads) found *= 2;
  return std::min(found, op.out.height);
}

// One panel of output channels of a convolution over all channels, tap after tap: pixels whose tap is in the image.
void conv(const Op& op, const Run& run, int64_t image, int64_t begin, int64_t end, int64_t part) {
  const Tensor &in = op.in, &out = op.out;
  const int64_t first = op.last.begin(part), vectors = op.last.begin(part + 1) - first, column = first * op.last.lanes;
  const int64_t channels = vectors * op.last.lanes, all = op.last.vectors * op.last.lanes, s = op.strides;
  for (int64_t y = begin; y < end; y++) {
    float* to = run.at(out, image, y) + column;
    for (int64_t x = 0; x < out.width; x++, to += out.stride)
      std::memcpy(to, op.project_bias + column, 4 * channels);
  }
  Ahead none;
  Product p{nullptr, s * in.stride, identity.offsets, in.channels, nullptr, nullptr, nullptr, out.stride,
            nullptr, 0, false, false, {}, &none};
  for (int64_t tap = 0; tap < op.kernel * op.kernel; tap++) {
    const int64_t dy = tap / op.kernel * op.dilation - op.pad, dx = tap % op.kernel * op.dilation - op.pad;
    const int64_t from = dx < 0 ? (s - 1 - dx) / s : 0;
    const int64_t to = dx < in.width ? std::min(out.width, (in.width - 1 - dx) / s + 1) : 0;
    p.weights = op.project_weights + (tap * all + column) * in.channels;
    for (int64_t y = begin; y < end && from < to; y++) {
      const int64_t row = y * s + dy;
      if (row < 0 || row >= in.height) continue;
      p.a = run.at(in, image, row) + (from * s + dx) * in.stride;
      p.c = run.at(out, image, y) + from * out.stride + column;
      product(p, to - from, {vectors, op.last.lanes, 1});
    }
  }
  for (int64_t y = begin; y < end; y++) {
    float* at = run.at(out, image, y) + column;
    for (int64_t x = 0; x < out.width; x++, at += out.stride)
      for (int64_t c = 0; c < channels; c++)
        at[c] = std::min(std::max(at[c], op.project_range.low), op.project_range.high);
  }
}

// Bilinear. `gains` and `weights` hold for each row and each pixel of a row: the two that it lies between, and the
// second one's share. With `step` the output is [channels][h][w].
void resize(const Op& op, const Run& run, int64_t image, int64_t y, Scratch& scratch) {
  const Tensor &in = op.in, &out = op.out;
  const float *above = run.at(in, image, op.gains[3 * y]), *below = run.at(in, image, op.gains[3 * y + 1]);
  const float share = op.gains[3 * y + 2];
  const int64_t apart = op.step ? 1 : in.channels, channels = in.channels;
  float* line = scratch.floats(in.width * channels);  // between the two rows, in the output's layout
  for (int64_t x = 0; x < in.width; x++, above += in.stride, below += in.stride)
    for (int64_t c = 0; c < channels; c++)
      line[op.step ? c * in.width + x : x * channels + c] = above[c] * (1 - share) + below[c] * share;
  float* to = op.step ? run.arena + out.base * run.images + (image * channels * out.height + y) * out.width
                      : run.at(out, image, y);
  for (int64_t part = 0; part < (op.step ? channels : 1); part++) {
    const float* from = line + part * in.width;
    float* at = to + part * out.height * out.width;
    for (int64_t x = 0; x < out.width; x++, at += op.step ? 1 : out.stride) {
      const float right = op.weights[3 * x + 2], left = 1 - right;
      const float* one = from + int64_t(op.weights[3 * x]) * apart;
      const float* other = from + int64_t(op.weights[3 * x + 1]) * apart;
      for (int64_t c = 0; c < apart; c++) at[c] = one[c] * left + other[c] * right;
    }
  }
}

// Threads that run the operations together. They spin between operations, and for a moment between runs: waking a
// thread takes longer than most operations.
class Pool {
 public:
  explicit Pool(int threads) : threads_(threads), scratch_(threads) {
    for (int i = 1; i < threads; i++) workers_.emplace_back([this, i] { work(i); });
  }

  ~Pool() {
    wake(nullptr);
    for (auto& worker : workers_) worker.join();
  }

  void run(const Run& run) {
    std::vector<std::atomic<int64_t>> items(run.count);
    for (auto& item : items) item = 0;
    items_ = items.data();
    wake(&run);
    all(run, 0);
  }

 private:
  void wake(const Run* run) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      run_ = run;
      runs_.fetch_add(1);
    }
    woken_.notify_all();
  }

  void work(int thread) {
    for (int64_t seen = 0;; seen++) {
      for (int i = 0; i < 20000 && runs_.load() == seen; i++) pause(i);
      if (runs_.load() == seen) {
        std::unique_lock<std::mutex> lock(mutex_);
        woken_.wait(lock, [&] { return runs_.load() != seen; });
      }
      if (!run_) return;
      const Run run = *run_;  // a copy: the caller's may be gone while this thread leaves the last barrier
      all(run, thread);
    }
  }

  static void pause(int turn) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
    if (turn % 1024 == 1023) std::this_thread::yield();  // another process may hold the core of the one waited for
  }

  void barrier() {
    const int64_t phase = phase_.load();
    if (arrived_.fetch_add(1) + 1 == threads_) {
      arrived_ = 0;
      phase_.fetch_add(1);
    } else {
      for (int i = 0; phase_.load() == phase; i++) pause(i);
    }
  }

  void all(const Run& run, int thread) {
    for (int64_t i = 0; i < run.count; i++) {
      one(run, run.ops[i], items_[i], scratch_[thread]);
      if (threads_ > 1) barrier();
    }
  }

  void one(const Run& run, const Op& op, std::atomic<int64_t>& item, Scratch& scratch) {
    if (op.kind == BLOCK) return blocks(run, op, item, scratch);
    const int64_t rows = op.kind == MEAN ? 1 : op.kind == CONV ? bands(op, run.images, threads_) : op.out.height;
    const int64_t parts = op.kind == CONV ? op.last.parts : 1, height = op.out.height;
    const int64_t count = op.kind == LINEAR ? op.last.parts : run.images * rows * parts;
    for (int64_t i; (i = item.fetch_add(1)) < count;) {
      if (op.kind == LINEAR) linear(op, run, i);
      if (op.kind == MAX_POOL) max_pool(op, run, i / rows, i % rows);
      if (op.kind == MOVE) move(op, run, i / rows, i % rows);
      if (op.kind == ADD) add(op, run, i / rows, i % rows);
      if (op.kind == MEAN) mean(op, run, i, 0);
      if (op.kind == RESIZE) resize(op, run, i / rows, i % rows, scratch);
      if (op.kind == CONV) {
        const int64_t band = i / parts % rows;
        conv(op, run, i / parts / rows, height * band / rows, height * (band + 1) / rows, i % parts);
      }
    }
  }

  // Bands of rows where images are few; also where per-pixel weights are large, so that all images meet them at once.
  // Else whole images. Several groups of images for each thread, because another process may slow one of them.
  void blocks(const Run& run, const Op& op, std::atomic<int64_t>& item, Scratch& scratch) {
    const int64_t n = run.images, height = op.out.height;
    const bool maps = op.spatial == PER_PIXEL, enough = n % threads_ == 0 || n >= 4 * threads_;
    const bool whole = enough && !(maps && height >= 12 * threads_);
    const int64_t bands = whole ? 1 : std::min<int64_t>(threads_, height);
    const int64_t share = whole ? (n + threads_ - 1) / threads_ : n;
    int64_t most = std::min<int64_t>(16, maps ? share : (share + 3) / 4);
    if (Block::tile_rows(op) < (height + bands - 1) / bands) most = std::min(most, Block::images_in_cache(op));
    const int64_t groups = (n + most - 1) / most;
    for (int64_t i; (i = item.fetch_add(1)) < groups * bands;) {
      const int64_t group = i / bands, band = i % bands, first = n * group / groups;
      Block(op, run, scratch, first, n * (group + 1) / groups - first, height * band / bands,
            height * (band + 1) / bands).run();
    }
  }

  int threads_;
  std::vector<Scratch> scratch_;
  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable woken_;
  const Run* run_ = nullptr;
  std::atomic<int64_t>* items_ = nullptr;
  alignas(64) std::atomic<int64_t> runs_{0};
  alignas(64) std::atomic<int64_t> phase_{0};
  alignas(64) std::atomic<int64_t> arrived_{0};
};

}  // namespace

extern "C" {

int lanes_of_vector() { return LANES; }
int vectors_of_panel() { return PANEL; }
int64_t size_of_op() { return sizeof(Op); }
void* make_pool(int threads) { return new Pool(threads); }
void free_pool(void* pool) { delete static_cast<Pool*>(pool); }

// pixels: images [n, 3, h, w]; arena: the floats of all tensors of one image, n times.
void run(void* pool, const Op* ops, int64_t count, int64_t n, const float* pixels, float* arena) {
  static_cast<Pool*>(pool)->run({ops, count, n, pixels, arena});
}
}
