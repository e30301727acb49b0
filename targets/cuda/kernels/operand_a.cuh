// How threads copy A to shared memory: rows of a matrix, or patches of a channels-last map. Where
// there is nothing, it is zeros; of bytes, those that stand for zero, which lie at `fill`.
#ifdef A_FILL
constexpr bool FILLS = true;
#else
#define A_FILL a
constexpr bool FILLS = false;
#endif

// What a thread knows of one row of A.
struct Row {
  const TA* base;
  bool valid;
#ifdef CONV
  int h, w;
#endif
};

__device__ __forceinline__ Row row_of(const TA* a, int m, int rows) {
  Row row;
  row.valid = m < rows;
#ifdef CONV
  int n = m / (OH * OW), pixel = m % (OH * OW);
  row.h = pixel / OW * STRIDE_H - PAD_H;
  row.w = pixel % OW * STRIDE_W - PAD_W;
  row.base = a + (long long)n * A_IMAGE;
#else
  row.base = a + (long long)m * A_ROW;
#endif
  return row;
}

// Where element k of a row lies; null outside.
__device__ __forceinline__ const TA* element_of(const Row& row, int k) {
  if (!row.valid || k >= K) return nullptr;
#ifdef CONV
  int tap = k / C, c = k % C;
  int h = row.h + tap / KW * DIL_H, w = row.w + tap % KW * DIL_W;
  if (h < 0 || h >= H || w < 0 || w >= W) return nullptr;
  return row.base + (h * A_H + w * A_W + c * A_C);
#else
  return row.base + k;
#endif
}

__device__ __forceinline__ void load_a(unsigned stage, const Row* rows, const TA* fill, int tile, unsigned worker) {
  int chunk = worker % 8, first = worker / 8, k = tile * BK + chunk * E;
#ifdef A_SCALAR
  // Read everything before the first store: stores keep the compiler from moving reads.
  Chunk<T> values[A_ROWS];
#pragma unroll
  for (int i = 0; i < A_ROWS; ++i)
#pragma unroll
    for (int e = 0; e < E; ++e) {
      const TA* from = element_of(rows[i], k + e);
      values[i].at[e] = from ? convert<T>(to_float(load_fresh(from))) : convert<T>(0.0f);
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
      const TA* from = element_of(rows[i], k + half * (E / 2));
      copy_half_async(to + half * 8, from ? from : fill, from != nullptr || FILLS);
    }
#else
    const TA* from = element_of(rows[i], k);
    copy_async(to, from ? from : fill, from != nullptr || FILLS);
#endif
#endif
  }
}
