// C = epilogue(A @ B) on Hopper: some warps do nothing but fetch tiles, the others but multiply.
//
// What limits large products is the second-level cache, so that the blocks of a cluster share what
// they fetch: SHARE_M blocks lie below each other and share tiles of B, SHARE_N beside each other
// and share tiles of A. Each fetches its part and hands it to all who need it (multicast). B lies
// in memory tile by tile, permuted as wgmma wants it; A is fetched by the copy engine (A_IS_FETCHED)
// where it is a matrix, or patches of so many channels that a tile is of one pixel each
// (A_IS_PATCHES); else threads copy patch by patch, as in gemm.cu.
//
// Every stage has two barriers: `full` opens when its tiles have arrived, `empty` when all blocks
// that get the next tiles have multiplied these. A block computes several tiles of the result, and
// fetches those of the next while the epilogue of the last is running. Sums stay in registers: B's
// columns lie in such an order that each thread holds eight neighbours of a row.
//
// MODE 3: where tiles have arrived, the warps that fetch put rests behind those of B (rests.cuh); then
// a third barrier, `ready`, opens.
// Reference: NVIDIA, PTX ISA 9.0 (mbarrier, cp.async.bulk.tensor, wgmma, setmaxnreg).

#ifdef SPARSE
constexpr bool IS_SPARSE = true;
#else
constexpr bool IS_SPARSE = false;
#endif
constexpr int TEAMS = BM / WM * (BN / WN), MT = IS_SPARSE ? WN / 64 : WM / 64, NT = (IS_SPARSE ? BM : BN) / 8;
// Of a matrix half of which are zeros, a row of a tile is as long as two of the other's.
constexpr int HALVES = IS_SPARSE ? 2 : 1, HALF_BYTES = BM * ROW_BYTES, A_BYTES = HALVES * HALF_BYTES;
constexpr int E = 16 / sizeof(T), HALF = ROW_BYTES / sizeof(T), BK = HALVES * HALF, TILES = (K + BK - 1) / BK;
constexpr int B_BYTES = BN * (IS_SPARSE ? ROW_BYTES + 16 : ROW_BYTES), FETCHED_BYTES = A_BYTES + B_BYTES;
constexpr bool HAS_RESTS = MODE == 3;
constexpr int STAGE_BYTES = FETCHED_BYTES + (HAS_RESTS ? B_BYTES : 0);
constexpr int CLUSTER_SIZE = SHARE_M * SHARE_N;
constexpr int N_TILES = (NB + BN - 1) / BN, N_STEPS = (N_TILES + SHARE_N - 1) / SHARE_N;
constexpr int COPYING = COPIERS * 128, ROWS_PER_PASS = COPYING / 8, A_ROWS = BM / ROWS_PER_PASS;
// Copies by threads are announced some tiles late, when they have surely arrived. A place is free
// when the tile behind it is being multiplied: with fewer stages, each side waits for the other.
// Rests are written as late.
#ifdef A_IS_FETCHED
constexpr int LATE = HAS_RESTS ? (STAGES < 8 ? STAGES - 2 : 6) : 0;
#else
constexpr int LATE = STAGES < 8 ? STAGES - 2 : 6;
#endif
static_assert(NT % 4 == 0 && WM % 64 == 0 && STAGES >= LATE + 2 && BN % SHARE_M == 0 && BM % (8 * SHARE_N) == 0, "tiling");

OPERAND_A

// The tiles of the result that a cluster computes, neighbours at the same time: they share A or B.
struct Walk {
  int m0, n_tile;
  __device__ __forceinline__ Walk(int step, int rows) {
    constexpr int GROUP = SHARE_M < 8 ? 8 / SHARE_M : 1;
    int m_steps = (rows + BM * SHARE_M - 1) / (BM * SHARE_M), group = step / (GROUP * N_STEPS) * GROUP;
    int height = min(GROUP, m_steps - group), inside = step % (GROUP * N_STEPS);
    int rank = blockIdx.x % CLUSTER_SIZE;
    m0 = ((group + inside % height) * SHARE_M + rank % SHARE_M) * BM;
    n_tile = inside / height * SHARE_N + rank / SHARE_M;
  }
  static __device__ __forceinline__ int count(int rows) { return (rows + BM * SHARE_M - 1) / (BM * SHARE_M) * N_STEPS; }
};

// A place among the stages: where to read or write next, and how often all of them were used.
struct Turn {
  int stage = 0;
  unsigned turn = 0;
  __device__ __forceinline__ void advance() {
    if (++stage == STAGES) stage = 0, turn ^= 1;
  }
};

// This block's part of a tile of B, for all blocks of its column of the cluster.
__device__ __forceinline__ void fetch_b(unsigned to, const TB* b, int n_tile, int tile, unsigned full) {
  constexpr int PART = B_BYTES / SHARE_M;
  int rank = blockIdx.x % CLUSTER_SIZE, part = rank % SHARE_M;
  constexpr int SIZE = sizeof(TB);
  const TB* from = b + ((long long)min(n_tile, N_TILES - 1) * TILES + tile) * (B_BYTES / SIZE) + part * (PART / SIZE);
  fetch<SHARE_M == 1>(to + part * PART, from, PART, full, ((1u << SHARE_M) - 1) << (rank - part));
}

#ifdef A_IS_PATCHES
// Where patch m begins.
__device__ __forceinline__ Pixel beginning_of(int m) {
  int image = m / (OH * OW), pixel = m % (OH * OW);
  return {pixel % OW * STRIDE_W - PAD_W, pixel / OW * STRIDE_H - PAD_H, image};
}
#endif

// Weights are there before the data is: the first stages begin with them. BYTES are all that will
// come to a stage by the copy engine.
constexpr int EARLY = TILES < STAGES ? TILES : STAGES;
template <int BYTES>
__device__ __forceinline__ void begin_with_weights(unsigned shared, unsigned full, const TB* b, int rows) {
  int step = blockIdx.x / CLUSTER_SIZE;
  if (step >= Walk::count(rows)) return;
  Walk at(step, rows);
  for (int tile = 0; tile < EARLY; ++tile) {
    if (BYTES == FETCHED_BYTES) arrive_and_expect(full + tile * 8, BYTES);
    else expect(full + tile * 8, BYTES);
    fetch_b(shared + tile * STAGE_BYTES + A_BYTES, b, at.n_tile, tile, full + tile * 8);
  }
}

RESTS

__device__ __forceinline__ void produce(
    unsigned shared, unsigned full, unsigned empty, unsigned ready, const TA* a, const TA* fill, const TB* b, const TensorMap* a_map, int rows) {
  Turn place, late;
  int pending = 0;
  unsigned worker = threadIdx.x - TEAMS * 128;
#if MODE == 3
  auto complete = [&] {
    wait_barrier(full + late.stage * 8, late.turn);
    write_rests(shared + late.stage * STAGE_BYTES + A_BYTES, worker);
    show_to_wgmma();
    arrive(ready + late.stage * 8);
  };
#else
  auto complete = [] {};
#endif
#ifdef A_IS_FETCHED
  if (!HAS_RESTS && worker != 0) return;
  int part = blockIdx.x % CLUSTER_SIZE / SHARE_M;
  unsigned mask = 0;
#pragma unroll
  for (int i = 0; i < SHARE_N; ++i) mask |= 1u << (i * SHARE_M);
  mask <<= blockIdx.x % CLUSTER_SIZE % SHARE_M;
  if (worker == 0) begin_with_weights<FETCHED_BYTES>(shared, full, b, rows);
  wait_for_predecessor();
  for (int step = blockIdx.x / CLUSTER_SIZE; step < Walk::count(rows); step += gridDim.x / CLUSTER_SIZE) {
    Walk at(step, rows);
#ifdef A_IS_PATCHES
    Pixel pixel = beginning_of(at.m0 + part * (BM / SHARE_N));
#endif
    for (int tile = 0; tile < TILES; ++tile, place.advance()) {
      if (worker == 0) {
        unsigned to = shared + place.stage * STAGE_BYTES, opens = full + place.stage * 8;
        wait_barrier(empty + place.stage * 8, place.turn ^ 1);
        bool begun = tile < EARLY && step == blockIdx.x / CLUSTER_SIZE;
        if (!begun) arrive_and_expect(opens, FETCHED_BYTES);
#ifdef A_IS_PATCHES
        int tap = tile * BK / C;
        fetch_patches<SHARE_N == 1>(
            to + part * (A_BYTES / SHARE_N), *a_map, tile * BK % C, pixel, tap % KW * DIL_W, tap / KW * DIL_H, opens, mask);
#else
#pragma unroll
        for (int half = 0; half < HALVES; ++half)
          fetch_matrix<SHARE_N == 1>(
              to + half * HALF_BYTES + part * (HALF_BYTES / SHARE_N), *a_map, tile * BK + half * HALF,
              at.m0 + part * (BM / SHARE_N), opens, mask);
#endif
        if (!begun) fetch_b(to + A_BYTES, b, at.n_tile, tile, opens);
      }
      if (!HAS_RESTS) continue;
      __syncwarp();
      if (pending == LATE) complete(), late.advance();
      else ++pending;
    }
  }
  for (; pending; --pending) complete(), late.advance();
#else
  auto announce = [&] {
    show_to_wgmma();
    arrive(full + late.stage * 8);
    complete();
    late.advance();
  };
  if (worker == 0) begin_with_weights<B_BYTES>(shared, full, b, rows);
  wait_for_predecessor();
  for (int step = blockIdx.x / CLUSTER_SIZE; step < Walk::count(rows); step += gridDim.x / CLUSTER_SIZE) {
    Walk at(step, rows);
    Rows mine = rows_of(a, at.m0, rows, worker);
    for (int tile = 0; tile < TILES; ++tile, place.advance()) {
      unsigned to = shared + place.stage * STAGE_BYTES;
      wait_barrier(empty + place.stage * 8, place.turn ^ 1);
      bool begun = tile < EARLY && step == blockIdx.x / CLUSTER_SIZE;
      if (worker == 0 && !begun) {
        expect(full + place.stage * 8, B_BYTES);
        fetch_b(to + A_BYTES, b, at.n_tile, tile, full + place.stage * 8);
      }
      load_a(to, mine, fill, tile, worker);
      commit();
      if (pending == LATE) {
        wait<LATE>();
        announce();
      } else {
        ++pending;
      }
    }
  }
  wait<0>();
  for (; pending; --pending) announce();
#endif
}

// A sum as a float; of a small integer that began as the bits of one, what was added.
template <bool IS_FLOAT> __device__ __forceinline__ float real(Sum sum) {
  if constexpr (IS_FLOAT) return __int_as_float(sum) - 12582912.0f;
  else return sum;
}

#ifdef SPARSE
SPARSE_PRODUCTS
#else
__device__ __forceinline__ void multiply(Sum acc[MT][NT][4], unsigned a, unsigned b, int wm) {
#pragma unroll
  for (int step = 0; step < ROW_BYTES / 32; ++step)
#pragma unroll
    for (int i = 0; i < MT; ++i) wgmma(&acc[i][0][0], a + (wm + i * 64) * ROW_BYTES + step * 32, b + step * 32);
}
#endif

#if SPLIT > 1
#define CLUSTER __cluster_dims__(SPLIT, 1, 1)
#else
#define CLUSTER
#endif
#ifdef A_IS_FETCHED
#define A_MAP , const __grid_constant__ TensorMap a_map
#else
#define A_MAP
#endif
extern "C" __global__ void CLUSTER __launch_bounds__(TEAMS * 128 + COPYING, 1)
    KERNEL(PARAMETERS, int rows A_MAP) {
  unsigned char* memory = shared_memory();
  unsigned shared = (unsigned)__cvta_generic_to_shared(memory);
  unsigned full = shared + STAGES * STAGE_BYTES, empty = full + STAGES * 8, ready = empty + STAGES * 8;
  const TA* a = A + 0;
  const TB* b = B + 0;
  if (threadIdx.x == 0) {
    for (int s = 0; s < STAGES; ++s) {
#ifdef A_IS_FETCHED
      init_barrier(full + s * 8, 1);
#else
      init_barrier(full + s * 8, COPYING);
#endif
      init_barrier(empty + s * 8, (SHARE_M + SHARE_N - 1) * TEAMS * 4);
      if (HAS_RESTS) init_barrier(ready + s * 8, COPYING);
    }
    show_barriers();
  }
#if SPLIT > 1
  pass_cluster();
#else
  __syncthreads();
#endif

  if (threadIdx.x >= TEAMS * 128) {
    if constexpr (PRODUCER_REGISTERS > 0) give_registers<PRODUCER_REGISTERS>();
#ifdef A_IS_FETCHED
    produce(shared, full, empty, ready, a, A_FILL, b, &a_map, rows);
#else
    produce(shared, full, empty, ready, a, A_FILL, b, nullptr, rows);
#endif
    __syncwarp();
  } else {
    if constexpr (CONSUMER_REGISTERS > 0) take_registers<CONSUMER_REGISTERS>();
    wait_for_predecessor();
    OPERANDS
    constexpr int FETCH_ROWS = WM, FETCH_COLUMNS = WN / (S / V), FETCH_THREADS = 128;
    int lane = threadIdx.x % 32, team = threadIdx.x / 128, wm = IS_SPARSE ? 0 : team * WM, wn = IS_SPARSE ? team * WN : 0;
    int rank = blockIdx.x % CLUSTER_SIZE;
    bool tells = lane < CLUSTER_SIZE && (lane % SHARE_M == rank % SHARE_M || lane / SHARE_M == rank / SHARE_M);
    Turn place;
    for (int step = blockIdx.x / CLUSTER_SIZE; step < Walk::count(rows); step += gridDim.x / CLUSTER_SIZE) {
      Walk walk(step, rows);
      int m0 = walk.m0 + wm, n0 = walk.n_tile * BN + wn;
      {
        int worker = threadIdx.x % 128, column = n0;
        FETCH_OPERANDS
      }
#if MODE == 5
      float row_scales[MT * 2];
#pragma unroll
      for (int r = 0; r < MT * 2; ++r) {
        int m = m0 + threadIdx.x % 128 / 32 * 16 + (lane >> 2) + r / 2 * 64 + r % 2 * 8;
        row_scales[r] = m < rows ? load_scale(a, rows, m) : 0.0f;
      }
#endif
      Sum acc[MT][NT][4];
#pragma unroll
      for (int i = 0; i < MT * NT * 4; ++i) {
        (&acc[0][0][0])[i] = SUM_START;
        if (SUM_START != 0) finished((&acc[0][0][0])[i]);  // no later
      }
#ifndef SPARSE
      unsigned before = 0;
#endif
      for (int tile = 0; tile < TILES; ++tile, place.advance()) {
        unsigned stage = shared + place.stage * STAGE_BYTES;
        wait_barrier(full + place.stage * 8, place.turn);
#if MODE == 3
        wait_barrier(ready + place.stage * 8, place.turn);
        multiply_with_rests(acc, stage, stage + A_BYTES, wm);
        before = empty + place.stage * 8;
        if (tile < TILES - 1 && tells) arrive_there(before, lane);
      }
#elif defined(SPARSE)
        begin_wgmma();
        uint4 places = places_of(stage + A_BYTES);
        multiply_sparse(acc, stage, stage + A_BYTES, wn, places);
        commit_wgmma();
        wait_wgmma<0>();  // until then, registers say where the numbers belong
        if (tells) arrive_there(empty + place.stage * 8, lane);
      }
#else
        begin_wgmma();
        multiply(acc, stage, stage + A_BYTES, wm);
        commit_wgmma();
        wait_wgmma<1>();
        // Now the tile before has been multiplied: its place may be used again.
        if (tile > 0 && tells) arrive_there(before, lane);
        before = empty + place.stage * 8;
      }
#endif
#ifdef SPARSE
#pragma unroll
      for (int i = 0; i < MT * NT * 4; ++i) finished((&acc[0][0][0])[i]);
      SPARSE_EPILOGUE
#else

      // What belongs to columns is read once for all rows, and operands of a few columns at once; the
      // first of them while the last product is running.
      constexpr int COUNT = NT / 4, AT_ONCE = MT < 4 ? 4 / MT : 1, PARTS = 8 / S;
      int t = lane & 3, m1 = m0 + threadIdx.x % 128 / 32 * 16 + (lane >> 2);
      Operands operands[AT_ONCE][PARTS][MT * 2];
      auto load_operands = [&](int j0) {
#pragma unroll
        for (int j = j0; j < COUNT && j < j0 + AT_ONCE; ++j)
#pragma unroll
          for (int part = 0; part < PARTS; ++part)
#pragma unroll
            for (int r = 0; r < MT * 2; ++r) {
              int m = m1 + r / 2 * 64 + r % 2 * 8, n = (n0 + (j * 4 + t) * 8 + part * S) / (S / V);
              long long at = (long long)m * N + n;
              Operands& o = operands[j - j0][part][r];
              if (m < rows && n < N) {
                LOAD_OPERANDS
              }
            }
      };
      load_operands(0);
      wait_wgmma<0>();
      if (tells) arrive_there(before, lane);
#pragma unroll
      for (int i = 0; i < MT * NT * 4; ++i) finished((&acc[0][0][0])[i]);

#pragma unroll
      for (int j0 = 0; j0 < COUNT; j0 += AT_ONCE) {
        if (j0 > 0) load_operands(j0);
#pragma unroll
        for (int j = j0; j < COUNT && j < j0 + AT_ONCE; ++j)
#pragma unroll
          for (int part = 0; part < PARTS; ++part) {
            int n = (n0 + (j * 4 + t) * 8 + part * S) / (S / V);
            if (n >= N) continue;
            LOAD_COLUMNS
#pragma unroll
            for (int r = 0; r < MT * 2; ++r) {
              int m = m1 + r / 2 * 64 + r % 2 * 8;
              if (m >= rows) continue;
              float v[S];
#pragma unroll
              for (int e = 0; e < S; ++e) {
                // Of a product's columns, this thread has 2t and 2t+1 of four blocks of eight.
                int column = part * S + e;
                v[e] = real<SUM_START != 0>(acc[r / 2][j * 4 + column / 2][r % 2 * 2 + column % 2]);
              }
              long long at = (long long)m * N + n;
              const Operands& o = operands[j - j0][part][r];
#if MODE == 5
              const float row_scale = row_scales[r];
#endif
              const float* w = v + V;  // of pairs, the second ones
              EPILOGUE
            }
          }
      }
#endif
    }
  }
#if SPLIT > 1
  pass_cluster();  // nobody leaves while others fetch tiles for it, or tell it that they have read theirs
#endif
}
