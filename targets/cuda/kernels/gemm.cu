// C = epilogue(A @ B) on tensor cores, A being a matrix or the patches of a channels-last map.
//
// Tiles of A (BM x BK) and B go to shared memory by asynchronous copies, STAGES deep; a row of a
// tile is 128 bytes, whose 16-byte chunks are permuted so that neither copies nor ldmatrix meet
// bank conflicts. Every warp multiplies WM x WN. The sums pass through shared memory once more, so
// that the epilogue reads and writes whole vectors.
//
// MODE 0: half, 1: bfloat16, 2: float rounded to TF32, 3: float as the sum of two TF32 numbers,
// three products of which have float32's accuracy.
// Reference: NVIDIA, CUDA C++ Programming Guide and PTX ISA 9.0 (mma.m16n8k16, ldmatrix).

constexpr int E = 16 / sizeof(T);
constexpr int BK = 128 / sizeof(T);
#ifdef WGMMA
// Four warps work on rows that are 16 apart, and take 64 rows at a time.
constexpr int TEAM = 128, M_STEP = 64;
#else
constexpr int TEAM = 32, M_STEP = 16;
#endif
constexpr int THREADS = (BM / WM) * (BN / WN) * TEAM;
constexpr int MT = WM / M_STEP, NT = WN / 8;
constexpr int A_BYTES = BM * 128, STAGE_BYTES = A_BYTES + BN * 128;
constexpr int TILES = (K + BK - 1) / BK, SHARE = (TILES + SPLIT - 1) / SPLIT;
constexpr int ROWS_PER_PASS = THREADS / 8, A_ROWS = BM / ROWS_PER_PASS, B_ROWS = BN / ROWS_PER_PASS;
static_assert(BM % ROWS_PER_PASS == 0 && BN % ROWS_PER_PASS == 0 && NT % 2 == 0, "tiling");

OPERAND_A

#ifdef B_ROWS_ARE_K
// B as (K, N), both from activations.
constexpr int B_CHUNKS = BN / E;
__device__ __forceinline__ int b_swizzle(int k, int chunk) {
  if (sizeof(T) == 4) return chunk ^ ((k & 3) << 1);
  return B_CHUNKS >= 8 ? chunk ^ (k & 7) : chunk ^ (k >> 1 & 3);
}
__device__ __forceinline__ void load_b(unsigned stage, const TB* b, int n0, int tile) {
#pragma unroll
  for (int i = threadIdx.x; i < BK * B_CHUNKS; i += THREADS) {
    int row = i / B_CHUNKS, chunk = i % B_CHUNKS, k = tile * BK + row, n = n0 + chunk * E;
    unsigned to = stage + row * (BN * (int)sizeof(T)) + (b_swizzle(row, chunk) << 4);
    const TB* from = b + (long long)k * N + n;
#ifdef B_SCALAR
    Chunk<T> values;
#pragma unroll
    for (int e = 0; e < E; ++e) {
      bool valid = k < K && n + e < N;
      values.at[e] = valid ? convert<T>(to_float(load_fresh(from + e))) : convert<T>(0.0f);
    }
    store_shared(to, values.bits);
#else
    bool valid = k < K && n < N;
    copy_async(to, valid ? from : b, valid);
#endif
  }
}
#else
// B packed as (N, K), zeros up to whole tiles.
__device__ __forceinline__ void load_b(unsigned stage, const TB* b, int n0, int tile) {
  int chunk = threadIdx.x % 8, first = threadIdx.x / 8;
#pragma unroll
  for (int i = 0; i < B_ROWS; ++i) {
    int r = first + i * ROWS_PER_PASS;
    unsigned to = stage + r * 128 + ((chunk ^ (r & 7)) << 4);
    copy_async(to, b + (long long)(n0 + r) * (TILES * BK) + tile * BK + chunk * E, true);
  }
}
#endif

#ifdef WGMMA
__device__ __forceinline__ void multiply(Sum acc[MT][NT][4], unsigned a, unsigned b, int wm, int wn) {
#pragma unroll
  for (int step = 0; step < 4; ++step)
#pragma unroll
    for (int i = 0; i < MT; ++i)
      wgmma(&acc[i][0][0], a + (wm + i * 64) * 128 + step * 32, b + wn * 128 + step * 32);
}
#else
__device__ __forceinline__ void multiply(Sum acc[MT][NT][4], unsigned a, unsigned b, int wm, int wn) {
  int lane = threadIdx.x % 32;
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    unsigned fa[MT][4], fb[NT][2];
#pragma unroll
    for (int i = 0; i < MT; ++i) {
      int r = wm + i * 16 + (lane & 15), chunk = step * 2 + (lane >> 4);
      load_matrix(fa[i], a + r * 128 + ((chunk ^ (r & 7)) << 4));
    }
#pragma unroll
    for (int j = 0; j < NT; j += 2) {
      unsigned pair[4];
#ifdef B_ROWS_ARE_K
      if (sizeof(T) == 2) {
        int k = step * 16 + (lane & 15), chunk = (wn + j * 8) / 8 + (lane >> 4);
        load_matrix_transposed(pair, b + k * (BN * 2) + (b_swizzle(k, chunk) << 4));
      } else {
#pragma unroll
        for (int q = 0; q < 4; ++q) {
          int k = step * 8 + (lane & 3) + (q & 1) * 4, n = wn + (j + q / 2) * 8 + (lane >> 2);
          pair[q] = load_shared(b + k * (BN * 4) + (b_swizzle(k, n >> 2) << 4) + (n & 3) * 4);
        }
      }
#else
      int r = wn + j * 8 + (lane & 7) + ((lane >> 4) << 3), chunk = step * 2 + ((lane >> 3) & 1);
      load_matrix(pair, b + r * 128 + ((chunk ^ (r & 7)) << 4));
#endif
      fb[j][0] = pair[0], fb[j][1] = pair[1], fb[j + 1][0] = pair[2], fb[j + 1][1] = pair[3];
    }
    multiply_fragments<MT, NT>(acc, fa, fb);
  }
}

#endif

#if SPLIT > 1
#define CLUSTER __cluster_dims__(SPLIT, 1, 1)
#else
#define CLUSTER
#endif
extern "C" __global__ void CLUSTER __launch_bounds__(THREADS) KERNEL(PARAMETERS, int rows) {
  unsigned char* memory = shared_memory();
  unsigned shared = (unsigned)__cvta_generic_to_shared(memory);
  // Neighbouring blocks share tiles of B or of A: walk in groups of eight rows of tiles.
  constexpr int N_TILES = (NB + BN - 1) / BN;
  // The blocks of a cluster share a tile of the result; each takes a part of the depth.
  int place = blockIdx.x / SPLIT, share = blockIdx.x % SPLIT;
  int m_tiles = (rows + BM - 1) / BM, group = place / (8 * N_TILES) * 8;
  int height = min(8, m_tiles - group), inside = place % (8 * N_TILES);
  int m0 = (group + inside % height) * BM, n0 = inside / height * BN;
  const TA* a = A + (long long)blockIdx.z * A_BATCH;
  const TB* b = B + (long long)blockIdx.z * B_BATCH;

  Rows mine = rows_of(a, m0, rows, threadIdx.x);
  int team = threadIdx.x / TEAM, wm = team % (BM / WM) * WM, wn = team / (BM / WM) * WN;
  Sum acc[MT][NT][4] = {};

  int first = share * SHARE, tiles = min(SHARE, TILES - first);
  // Tensor cores may still read the tile before the last: its place is taken one round later.
#ifdef WGMMA
  constexpr int AHEAD = STAGES - 2;
#else
  constexpr int AHEAD = STAGES - 1;
#endif
#ifndef B_ROWS_ARE_K
  // Weights are there before the data is.
#pragma unroll
  for (int s = 0; s < AHEAD; ++s)
    if (s < tiles) load_b(shared + s * STAGE_BYTES + A_BYTES, b, n0, first + s);
#endif
  wait_for_predecessor();
  constexpr int FETCH_ROWS = BM, FETCH_COLUMNS = BN / (S / V), FETCH_THREADS = THREADS;
  if (share == 0) {
    int worker = threadIdx.x, column = n0;
    FETCH_OPERANDS
  }
#pragma unroll
  for (int s = 0; s < AHEAD; ++s) {
    if (s < tiles) {
      load_a(shared + s * STAGE_BYTES, mine, A_FILL, first + s, threadIdx.x);
#ifdef B_ROWS_ARE_K
      load_b(shared + s * STAGE_BYTES + A_BYTES, b, n0, first + s);
#endif
    }
    commit();
  }
  for (int tile = 0; tile < tiles; ++tile) {
    wait<AHEAD - 1>();
#ifdef WGMMA
    show_to_wgmma();
#endif
    __syncthreads();
    unsigned stage = shared + tile % STAGES * STAGE_BYTES;
#ifdef WGMMA
    begin_wgmma();
    multiply(acc, stage, stage + A_BYTES, wm, wn);
    commit_wgmma();
#endif
    int next = tile + AHEAD;
    if (next < tiles) {
      unsigned to = shared + next % STAGES * STAGE_BYTES;
      load_a(to, mine, A_FILL, first + next, threadIdx.x);
      load_b(to + A_BYTES, b, n0, first + next);
    }
    commit();
#ifdef WGMMA
    wait_wgmma<1>();
#elif MODE == 3
    // Tensor cores truncate their sums: keep those short, and add them up in float32.
    Sum part[MT][NT][4] = {};
    multiply(part, stage, stage + A_BYTES, wm, wn);
#pragma unroll
    for (int i = 0; i < MT * NT * 4; ++i) (&acc[0][0][0])[i] += (&part[0][0][0])[i];
#else
    multiply(acc, stage, stage + A_BYTES, wm, wn);
#endif
  }
  wait<0>();
#ifdef WGMMA
  wait_wgmma<0>();
#pragma unroll
  for (int i = 0; i < MT * NT * 4; ++i) finished((&acc[0][0][0])[i]);
#endif
  __syncthreads();

  constexpr int PITCH = BN + 4;
  float* sums = reinterpret_cast<float*>(memory);
  int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < MT; ++i)
#pragma unroll
    for (int j = 0; j < NT; ++j)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        int r = wm + threadIdx.x % TEAM / 32 * 16 + i * M_STEP + (lane >> 2) + half * 8, c = wn + j * 8 + (lane & 3) * 2;
        *reinterpret_cast<float2*>(sums + r * PITCH + c) =
            make_float2(acc[i][j][half * 2], acc[i][j][half * 2 + 1]);
      }
#if SPLIT > 1
  meet_cluster();
#else
  __syncthreads();
#endif
  OPERANDS
  constexpr int VECTORS = BM * BN / S, STRIDE = SPLIT * THREADS, TURNS = (VECTORS + STRIDE - 1) / STRIDE;
  constexpr int AT_ONCE = HAS_OPERANDS ? (TURNS < 8 ? TURNS : 8) : 1;
  for (int begin = share * THREADS + threadIdx.x; begin < VECTORS; begin += AT_ONCE * STRIDE) {
    Operands operands[AT_ONCE];
#pragma unroll
    for (int turn = 0; turn < AT_ONCE; ++turn) {
      int i = begin + turn * STRIDE, m = m0 + i / (BN / S), n = (n0 + i % (BN / S) * S) / (S / V);
      if (i >= VECTORS || m >= rows || n >= N) continue;
      long long at = ((long long)blockIdx.z * rows + m) * N + n;
      Operands& o = operands[turn];
      LOAD_OPERANDS
    }
#pragma unroll
    for (int turn = 0; turn < AT_ONCE; ++turn) {
      int i = begin + turn * STRIDE, r = i / (BN / S), c = i % (BN / S) * S, m = m0 + r, n = (n0 + c) / (S / V);
      if (i >= VECTORS || m >= rows || n >= N) continue;
      float v[S];
#if SPLIT > 1
#pragma unroll
      for (int e = 0; e < S; ++e) v[e] = 0.0f;
#pragma unroll
      for (int s = 0; s < SPLIT; ++s)
#pragma unroll
        for (int e = 0; e < S; e += 4) {
          float4 part = load_cluster(shared + (r * PITCH + c + e) * 4, s);
          v[e] += part.x, v[e + 1] += part.y, v[e + 2] += part.z, v[e + 3] += part.w;
        }
#else
#pragma unroll
      for (int e = 0; e < S; ++e) v[e] = sums[r * PITCH + c + e];
#endif
      long long at = ((long long)blockIdx.z * rows + m) * N + n;
      const Operands& o = operands[turn];
#if MODE == 5
      const float row_scale = load_scale(a, rows, m);
#endif
      const float* w = v + V;  // of pairs, the second ones
      EPILOGUE
    }
  }
#if SPLIT > 1
  meet_cluster();  // nobody leaves while others read its sums
#endif
}
