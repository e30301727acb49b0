// How threads copy A to shared memory: rows of a matrix, or patches of a channels-last map. Where
// there is nothing, it is zeros; of bytes, those that stand for zero, which lie at `fill`.
#ifdef A_FILL
constexpr bool FILLS = true;
#else
#define A_FILL a
constexpr bool FILLS = false;
#endif

#if MODE == 5
// What row m is to be multiplied by: behind all rows.
__device__ __forceinline__ float load_scale(const TA* a, int rows, int m) {
  return __uint_as_float(load_fresh_32(reinterpret_cast<const float*>(a + (long long)rows * K) + m));
}
#endif

// What a thread knows of its rows of A: where they begin, and which of a patch's pixels exist, one
// bit each (of more than 64, where the first lies).
#ifdef CONV
constexpr int TAPS = K / C;
#else
constexpr int TAPS = 1;
#endif
constexpr bool HAS_BITS = TAPS <= 64;
constexpr int NOWHERE = -2147483647;
template <bool WIDE> struct BitsOf { typedef unsigned type; };
template <> struct BitsOf<true> { typedef unsigned long long type; };
typedef BitsOf<(TAPS > 32)>::type Bits;
struct Rows {
  const TA* base;
  int offset[A_ROWS];
  Bits bits[A_ROWS];
};

__device__ __forceinline__ bool is_inside(int h, int w) {
#ifdef CONV
  return h >= 0 && h < H && w >= 0 && w < W;
#else
  return true;
#endif
}

__device__ __forceinline__ Rows rows_of(const TA* a, int m0, int rows, unsigned worker) {
  Rows found;
#ifdef CONV
  // Offsets count from the first row's image: they are small, however many images there are.
  int first = m0 / (OH * OW);
  found.base = a + (long long)first * A_IMAGE;
#else
  found.base = a + (long long)m0 * A_ROW;
#endif
#pragma unroll
  for (int i = 0; i < A_ROWS; ++i) {
    int r = worker / 8 + i * ROWS_PER_PASS, m = m0 + r;
#ifdef CONV
    int n = m / (OH * OW) - first, pixel = m % (OH * OW);
    int h = pixel / OW * STRIDE_H - PAD_H, w = pixel % OW * STRIDE_W - PAD_W;
    found.offset[i] = n * A_IMAGE + h * A_H + w * A_W;
    Bits bits = 0;
    if constexpr (HAS_BITS) {
      Bits columns = 0;
#pragma unroll
      for (int kw = 0; kw < KW; ++kw)
        if (is_inside(0, w + kw * DIL_W)) columns |= (Bits)1 << kw;
#pragma unroll
      for (int kh = 0; kh < TAPS / KW; ++kh)
        if (is_inside(h + kh * DIL_H, 0)) bits |= columns << kh * KW;
    } else {
      bits = (Bits)(unsigned)h << 32 % (8 * sizeof(Bits)) | (unsigned)w;
    }
    if (m >= rows) bits = 0, found.offset[i] = HAS_BITS ? 0 : NOWHERE;
    found.bits[i] = bits;
#else
    found.offset[i] = r * A_ROW;
    found.bits[i] = m < rows;
#endif
  }
  return found;
}

// Element k of row i: whether it exists, and where it would lie.
struct Place {
  const TA* at;
  bool exists;
};
__device__ __forceinline__ Place element_of(const Rows& rows, int i, int k) {
#ifdef CONV
  int tap = k / C, kh = tap / KW * DIL_H, kw = tap % KW * DIL_W;
  bool exists = K % BK == 0 || tap < TAPS;
  if constexpr (HAS_BITS) {
    exists = exists && (rows.bits[i] >> tap & 1);
  } else {
    int h = (int)(rows.bits[i] >> 32 % (8 * sizeof(Bits))), w = (int)rows.bits[i];
    exists = exists && rows.offset[i] != NOWHERE && is_inside(h + kh, w + kw);
    if (!exists) return {rows.base, false};
  }
  return {rows.base + (rows.offset[i] + (kh * A_H + kw * A_W + k % C * A_C)), exists};
#else
  return {rows.base + (rows.offset[i] + k), rows.bits[i] && (K % BK == 0 || k < K)};
#endif
}

__device__ __forceinline__ void load_a(unsigned stage, const Rows& rows, const TA* fill, int tile, unsigned worker) {
  int chunk = worker % 8, first = worker / 8, k = tile * BK + chunk * E;
#ifdef A_SCALAR
  // Read everything before the first store: stores keep the compiler from moving reads.
  Chunk<T> values[A_ROWS];
#pragma unroll
  for (int i = 0; i < A_ROWS; ++i)
#pragma unroll
    for (int e = 0; e < E; ++e) {
      Place from = element_of(rows, i, k + e);
      values[i].at[e] = from.exists ? convert<T>(to_float(load_fresh(from.at))) : convert<T>(0.0f);
    }
#endif
#pragma unroll
  for (int i = 0; i < A_ROWS; ++i) {
    int r = first + i * ROWS_PER_PASS;
    unsigned to = stage + r * 128 + ((chunk ^ (r & 7)) << 4);
#ifdef A_SCALAR
    store_shared(to, values[i].bits);
#else
#ifdef A_HALVES
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      Place from = element_of(rows, i, k + half * (E / 2));
      copy_half_async(to + half * 8, FILLS && !from.exists ? fill : from.at, from.exists || FILLS);
    }
#else
    Place from = element_of(rows, i, k);
    copy_async(to, FILLS && !from.exists ? fill : from.at, from.exists || FILLS);
#endif
#endif
  }
}
