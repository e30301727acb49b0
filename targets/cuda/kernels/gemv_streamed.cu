// Products of a few rows with packed weights, as fast as memory gives these: the copy engine fetches
// them to shared memory, a ring of stages ahead, and begins before the kernel's predecessor has
// ended. Two blocks fit on a multiprocessor, so that one may be the next kernel's.
//
// The warps of a block share a row's depth (DEPTH_WARPS) and, where that is short, the columns. A
// warp holds its part of the rows in registers, as floats; its stages are its own, so that warps
// never wait for each other. At the end the parts of all columns are added, and get their epilogue.
//
// With a norm, rows are normalized as they are read: every block does that for itself.
// Weights of four or eight bits with scales per chunk (16 bytes) become floats between one and two
// by their bits alone: 1 + q * UNIT. What the ones add is taken off again.
// With PAIRS, columns come in pairs, and the epilogue makes one result of each.

constexpr int TURNS = (SLICE + 31) / 32, COLUMN_WARPS = WARPS / DEPTH_WARPS;
constexpr int SCALES_AT = COLUMNS * SLICE * 16;
constexpr int RING_BYTES = WARPS * STAGES * STAGE_BYTES;
static_assert(STAGE_BYTES % 16 == 0 && WARPS % DEPTH_WARPS == 0, "tiling");

// The numbers of a chunk, or of bits 1 + q * UNIT.
__device__ __forceinline__ void unpack(float* to, uint4 bits) {
#if BITS == 16 || BITS == 32
  Chunk<T> chunk;
  chunk.bits = bits;
#pragma unroll
  for (int e = 0; e < E; ++e) to[e] = to_float(chunk.at[e]);
#else
  unsigned words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int b = 0; b < 4; ++b) {
#if BITS == 8
      to[i * 4 + b] = __uint_as_float(__byte_perm(words[i], 0x3f800000u, 0x7604 | b << 4));
#else
      unsigned low = (words[i] & 0x0f0f0f0fu) | 0x80808080u, high = (words[i] >> 4 & 0x0f0f0f0fu) | 0x80808080u;
      to[i * 8 + b] = __uint_as_float(__byte_perm(low, 0x3f000000u, 0x7044 | b << 8));
      to[i * 8 + 4 + b] = __uint_as_float(__byte_perm(high, 0x3f000000u, 0x7044 | b << 8));
#endif
    }
#endif
}

// The sum over a row of what its warps have.
__device__ __forceinline__ float whole(float x, float* place) {
#pragma unroll
  for (int step = 16; step; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  __syncthreads();  // others may still read what was there
  if (threadIdx.x % 32 == 0) place[threadIdx.x / 32] = x;
  __syncthreads();
  const float* team = place + threadIdx.x / 32 / DEPTH_WARPS * DEPTH_WARPS;
  x = 0.0f;
#pragma unroll
  for (int w = 0; w < DEPTH_WARPS; ++w) x += team[w];
  return x;
}

extern "C" __global__ void __launch_bounds__(WARPS * 32, 1) KERNEL(PARAMETERS) {
  unsigned char* memory = shared_memory();
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, part = warp % DEPTH_WARPS, team = warp / DEPTH_WARPS;
  unsigned ring = (unsigned)__cvta_generic_to_shared(memory) + warp * (STAGES * STAGE_BYTES);
  unsigned bars = (unsigned)__cvta_generic_to_shared(memory) + RING_BYTES + warp * (STAGES * 8);
  float* place = reinterpret_cast<float*>(memory + RING_BYTES + WARPS * STAGES * 8);
  float* parts = place + WARPS;
  // Blocks read side by side: what all of them want at a time is one stretch of memory.
  int begin = blockIdx.x * COLUMN_WARPS + team, stride = gridDim.x * COLUMN_WARPS;
  int mine = (ALL_GROUPS - begin + stride - 1) / stride;
  const signed char* from = B_POINTER + ((long long)begin * DEPTH_WARPS + part) * STAGE_BYTES;
  auto ask = [&](int group) {
    int stage = group % STAGES;
    arrive_and_expect(bars + stage * 8, STAGE_BYTES);
    fetch<true>(ring + stage * STAGE_BYTES, from + (long long)group * stride * (DEPTH_WARPS * STAGE_BYTES), STAGE_BYTES, bars + stage * 8, 0);
  };
  if (lane == 0) {
    for (int s = 0; s < STAGES; ++s) init_barrier(bars + s * 8, 1);
    show_barriers();
    for (int s = 0; s < STAGES && s < mine; ++s) ask(s);
  }
  __syncwarp();
  wait_for_predecessor();

  float x[M][TURNS][E];
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int i = 0; i < TURNS; ++i) {
      int chunk = i * 32 + lane, k = (part * SLICE + chunk) * E;
      const TA* row = A_POINTER + m * K + k;
      if (K % E == 0 && chunk < SLICE && k < K) {
        read_fresh<E>(x[m][i], row);
      } else {
#pragma unroll
        for (int e = 0; e < E; ++e) x[m][i][e] = K % E && chunk < SLICE && k + e < K ? to_float(load_fresh(row + e)) : 0.0f;
      }
    }
  NORM

#if BITS < 16
  float ones[M][TURNS];
#pragma unroll
  for (int i = 0; i < M * TURNS; ++i) {
    ones[i / TURNS][i % TURNS] = 0.0f;
#pragma unroll
    for (int e = 0; e < E; ++e) ones[i / TURNS][i % TURNS] += x[i / TURNS][i % TURNS][e];
  }
#endif
  for (int group = 0; group < mine; ++group) {
    const unsigned char* stage = memory + warp * (STAGES * STAGE_BYTES) + group % STAGES * STAGE_BYTES;
    wait_barrier(bars + group % STAGES * 8, group / STAGES & 1);
    float sums[COLUMNS][M] = {};
#pragma unroll
    for (int i = 0; i < TURNS; ++i) {
      int chunk = i * 32 + lane;
      if ((i + 1) * 32 > SLICE && chunk >= SLICE) continue;
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) {
        float weights[E];
        unpack(weights, reinterpret_cast<const uint4*>(stage)[c * SLICE + chunk]);
#if BITS < 16
        float scale = to_float(reinterpret_cast<const TS*>(stage + SCALES_AT)[c * SLICE + chunk]), zero = ZERO;
        if (HAS_ZEROS) zero = to_float(reinterpret_cast<const TS*>(stage + SCALES_AT)[(COLUMNS + c) * SLICE + chunk]);
#endif
#pragma unroll
        for (int m = 0; m < M; ++m) {
#if BITS < 16
          float sum = -ones[m][i];
#pragma unroll
          for (int e = 0; e < E; ++e) sum += weights[e] * x[m][i][e];
          sums[c][m] += scale * (sum * PER_UNIT - zero * ones[m][i]);
#else
#pragma unroll
          for (int e = 0; e < E; ++e) sums[c][m] += weights[e] * x[m][i][e];
#endif
        }
      }
    }
    __syncwarp();  // all have read the stage
    if (lane == 0 && group + STAGES < mine) ask(group + STAGES);
#pragma unroll
    for (int i = 0; i < COLUMNS * M; ++i) {
      float sum = sums[i / M][i % M];
#pragma unroll
      for (int step = 16; step; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
      if (lane == 0) parts[((group * COLUMN_WARPS + team) * COLUMNS * M + i) * DEPTH_WARPS + part] = sum;
    }
  }
  __syncthreads();

  auto sum_of = [&](int column, int m) {
    float sum = 0.0f;
#pragma unroll
    for (int p = 0; p < DEPTH_WARPS; ++p) sum += parts[(column * M + m) * DEPTH_WARPS + p];
    return sum;
  };
  constexpr int EACH = COLUMNS / (PAIRS ? 2 : 1), RESULTS = GROUPS * EACH, V = 1;
  for (int i = threadIdx.x; i < RESULTS * M; i += WARPS * 32) {
    int m = i / RESULTS, column = i % RESULTS, group = column / EACH;
    int first = blockIdx.x * COLUMN_WARPS + group % COLUMN_WARPS;
    int n = (first + group / COLUMN_WARPS * stride) * EACH + column % EACH;
    if (n >= N) continue;
    float v[V] = {sum_of(PAIRS ? column * 2 : column, m)};
#if PAIRS
    float w[V] = {sum_of(column * 2 + 1, m)};
#endif
    long long at = (long long)m * N + n;
    EPILOGUE
  }
}
