// The same as attention.cu on Hopper: four warps multiply together, 64 queries at a time; four others
// fetch. While values are being added up, scores of the next keys are on their way.
//
// Tiles in shared memory are rows of 128 bytes, permuted as wgmma wants them: those of queries and
// keys lie along the depth of the first product, those of values across that of the second. Of every
// eight columns of scores, a thread has two. Keys, and values with them, lie in such an order that
// these are eight neighbours after four times eight: masks come in whole vectors. Weights stay in
// registers: as a thread has them of the first product, it needs them for the second.
// Reference: Shah et al., FlashAttention-3, 2024.

constexpr int E = 8, QUERIES = TEAMS * 64, TILES = (KEY_COUNT + KEYS - 1) / KEYS;
constexpr int Q_BYTES = QUERIES * DQ * 2, K_BYTES = KEYS * DQ * 2, V_BYTES = KEYS * DV * 2;
static_assert(KEYS % 32 == 0 && DQ % 64 == 0 && DV % 64 == 0 && V_BLOCK == KEYS * 128, "tiles");
static_assert(TILES == STAGES || STAGES >= 2, "copies are announced two tiles late");
constexpr float LOG2_E = 1.4426950408889634f;
template <bool IS> struct Flag { static constexpr bool value = IS; };

template <typename Stored> struct Rows {
  const Stored* from;
  long long row_stride;
};

// Where key number r of a tile lies in it.
__device__ __forceinline__ constexpr int place_of(int r) { return r / 32 * 32 + r % 8 / 2 * 8 + r % 32 / 8 * 2 + r % 2; }

// Rows `first` .. of a matrix into shared memory, by 128 threads; zeros outside. Those from
// `SPLIT_ROW` on lie in another tensor: keys of new positions behind those of earlier ones.
template <int COUNT, int PADDED, int SPLIT_ROW, bool ARE_KEYS, typename Stored, typename Later>
__device__ __forceinline__ void load_rows(unsigned to, Rows<Stored> a, Rows<Later> b, int first, int rows, int depth) {
  constexpr int CHUNKS = PADDED / E, STEP = 128 / CHUNKS;
  int worker = threadIdx.x % 128, c = worker % CHUNKS;
  // Not all at once: there are few registers.
#pragma unroll 4
  for (int i = 0; i < COUNT / STEP; ++i) {
    int r = worker / CHUNKS + i * STEP, row = first + r, place = ARE_KEYS ? place_of(r) : r;
    bool exists = row < rows && c * E < depth;
    const void* from = a.from;
    if (exists) from = row < SPLIT_ROW ? (const void*)(a.from + row * a.row_stride + c * E) : b.from + (row - SPLIT_ROW) * b.row_stride + c * E;
    copy_async(to + c / 8 * (COUNT * 128) + place * 128 + ((c % 8 ^ place % 8) << 4), from, exists);
  }
}

__device__ __forceinline__ unsigned pack(float low, float high) {
  Chunk<T> chunk;
  chunk.at[0] = convert<T>(low);
  chunk.at[1] = convert<T>(high);
  return chunk.bits.x;
}

// Of 4 x 4 words that four threads hold, a row each, gives each a column.
__device__ __forceinline__ void transpose(unsigned* words, int t) {
#pragma unroll
  for (int bit = 1; bit < 4; bit *= 2)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (!(i & bit)) {
        unsigned got = __shfl_xor_sync(0xffffffffu, t & bit ? words[i] : words[i | bit], bit);
        if (t & bit) words[i] = got;
        else words[i | bit] = got;
      }
}

// Barriers: tiles of keys and of values, `full` and `empty` ones.
struct Barriers {
  unsigned at;
  __device__ __forceinline__ unsigned full(int tile, bool of_values) const { return at + (tile % STAGES * 2 + of_values) * 8; }
  __device__ __forceinline__ unsigned empty(int tile, bool of_values) const { return full(tile, of_values) + STAGES * 16; }
  static __device__ __forceinline__ unsigned turn(int tile) { return tile / STAGES & 1; }
};

extern "C" __global__ void __launch_bounds__(TEAMS * 128 + 128, 1) KERNEL(PARAMETERS) {
  unsigned q_tile = (unsigned)__cvta_generic_to_shared(shared_memory());
  unsigned k_tiles = q_tile + Q_BYTES, v_tiles = k_tiles + STAGES * K_BYTES;
  Barriers barriers{v_tiles + STAGES * V_BYTES};
  if (threadIdx.x == 0) {
    for (int i = 0; i < STAGES * 2; ++i) {
      init_barrier(barriers.at + i * 8, 128);
      init_barrier(barriers.at + STAGES * 16 + i * 8, TEAMS * 4);
    }
    show_barriers();
  }
  __syncthreads();
  wait_for_predecessor();
  int batch = blockIdx.y / HEADS, head = blockIdx.y % HEADS, q0 = blockIdx.x * QUERIES;

  if (threadIdx.x >= TEAMS * 128) {
    if constexpr (TEAMS > 1) give_registers<56>();
#define PART(X) {X##_POINTER + X##_OFFSET + batch * X##_S0 + head * X##_S1, X##_S2}
    Rows<TQ> q PART(Q);
    Rows<TK> k PART(K);
    Rows<TK2> k2 PART(K2);
    Rows<TV> v PART(V);
    Rows<TV2> v2 PART(V2);
    int announced = 0;
    auto announce = [&] {
      show_to_wgmma();
      arrive(barriers.full(announced / 2, announced % 2));
      ++announced;
    };
    load_rows<QUERIES, DQ, QUERY_COUNT, false>(q_tile, q, q, q0, QUERY_COUNT, DEPTH);
#pragma unroll 1
    for (int tile = 0; tile < TILES; ++tile) {
      if (tile >= STAGES) wait_barrier(barriers.empty(tile, false), Barriers::turn(tile) ^ 1);
      load_rows<KEYS, DQ, K_COUNT, true>(k_tiles + tile % STAGES * K_BYTES, k, k2, tile * KEYS, KEY_COUNT, DEPTH);
      commit();
      if (tile > 0) {
        wait<2>();
        announce();
      }
      if (tile >= STAGES) wait_barrier(barriers.empty(tile, true), Barriers::turn(tile) ^ 1);
      load_rows<KEYS, DV, V_COUNT, true>(v_tiles + tile % STAGES * V_BYTES, v, v2, tile * KEYS, KEY_COUNT, V_DEPTH);
      commit();
      if (tile > 0) {
        wait<2>();
        announce();
      }
    }
    wait<1>();
    announce();
    wait<0>();
    announce();
  } else {
    if constexpr (TEAMS > 1) take_registers<224>();
    int lane = threadIdx.x % 32, t = lane & 3, team = threadIdx.x / 128;
    int row = threadIdx.x / 32 * 16 + (lane >> 2);
    float s[KEYS / 8][4], out[DV / 8][4] = {}, largest[2] = {-INFINITY_, -INFINITY_}, total[2] = {0.0f, 0.0f};
    unsigned p[KEYS / 16][4];
    auto release = [&](unsigned barrier) {
      if (lane == 0) arrive(barrier);
    };
    auto add_values = [&](int tile) {
      wait_barrier(barriers.full(tile, true), Barriers::turn(tile));
      begin_wgmma();
#pragma unroll
      for (int step = 0; step < KEYS / 16; ++step)
        wgmma_values(&out[0][0], p[step], v_tiles + tile % STAGES * V_BYTES + step * 2048);
      commit_wgmma();
    };
    auto finish_values = [&](int tile) {
      wait_wgmma<0>();
      release(barriers.empty(tile, true));
#pragma unroll
      for (int i = 0; i < DV / 2; ++i) finished((&out[0][0])[i]);
#pragma unroll
      for (int i = 0; i < KEYS / 4; ++i) finished((&p[0][0])[i]);
    };
    auto pass = [&](int tile, auto is_first) {
      constexpr bool FIRST = decltype(is_first)::value;
      PRELOAD
      wait_barrier(barriers.full(tile, false), Barriers::turn(tile));
      begin_wgmma();
#pragma unroll
      for (int step = 0; step < DQ / 16; ++step)
        wgmma(&s[0][0], q_tile + step / 4 * (QUERIES * 128) + team * 8192 + step % 4 * 32,
              k_tiles + tile % STAGES * K_BYTES + step / 4 * (KEYS * 128) + step % 4 * 32, step > 0);
      commit_wgmma();
      if constexpr (FIRST) {
        wait_wgmma<0>();
      } else {
        add_values(tile - 1);
        wait_wgmma<1>();
      }
      release(barriers.empty(tile, false));
#pragma unroll
      for (int i = 0; i < KEYS / 2; ++i) finished((&s[0][0])[i]);

      float peak[2] = {-INFINITY_, -INFINITY_}, shrink[2];
#pragma unroll
      for (int j = 0; j < KEYS / 8; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          float score = s[j][e] * SCALE;
          CHAIN
          int key = tile * KEYS + j / 4 * 32 + t * 8 + j % 4 * 2 + e % 2;
          if (KEY_COUNT % KEYS != 0 && key >= KEY_COUNT) score = -INFINITY_;
          s[j][e] = score;
          peak[e / 2] = fmaxf(peak[e / 2], score);
        }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        peak[half] = fmaxf(peak[half], __shfl_xor_sync(0xffffffffu, peak[half], 1));
        peak[half] = fmaxf(peak[half], __shfl_xor_sync(0xffffffffu, peak[half], 2));
        // Powers of two are rounded once: weights of all tiles then differ by the same factor.
        float power = fmaxf(largest[half], peak[half] * LOG2_E);
        // Where everything so far is masked away, any finite number serves.
        float safe = power == -INFINITY_ ? 0.0f : power, sum = 0.0f;
        shrink[half] = nearly_exp2(largest[half] - safe);
        largest[half] = power;
#pragma unroll
        for (int j = 0; j < KEYS / 8; ++j)
#pragma unroll
          for (int e = half * 2; e < half * 2 + 2; ++e) {
            s[j][e] = nearly_exp2(s[j][e] * LOG2_E - safe);
            sum += s[j][e];
          }
        total[half] = total[half] * shrink[half] + sum;
      }

      if constexpr (!FIRST) {
        finish_values(tile - 1);
#pragma unroll
        for (int n = 0; n < DV / 8; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e) out[n][e] *= shrink[e / 2];
      }
#pragma unroll
      for (int j = 0; j < KEYS / 8; ++j)
#pragma unroll
        for (int half = 0; half < 2; ++half) p[j / 2][j % 2 * 2 + half] = pack(s[j][half * 2], s[j][half * 2 + 1]);
    };
    pass(0, Flag<true>());
#pragma unroll 1
    for (int tile = 1; tile < TILES; ++tile) pass(tile, Flag<false>());
    add_values(TILES - 1);
    finish_values(TILES - 1);

#pragma unroll
    for (int half = 0; half < 2; ++half) {
      total[half] += __shfl_xor_sync(0xffffffffu, total[half], 1);
      total[half] += __shfl_xor_sync(0xffffffffu, total[half], 2);
      int query = q0 + row + half * 8;
      float part = 1.0f / total[half];
      TY* to = y + batch * Y_S0 + head * Y_S1 + query * Y_S2;
#if Y_CHUNKS
#pragma unroll
      for (int n = 0; n < DV / 8; n += 4) {
        unsigned words[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) words[i] = pack(out[n + i][half * 2] * part, out[n + i][half * 2 + 1] * part);
        transpose(words, t);
        int d = (n + t) * 8;
        if (query < QUERY_COUNT && d < V_DEPTH) *reinterpret_cast<uint4*>(to + d) = make_uint4(words[0], words[1], words[2], words[3]);
      }
#else
      if (query >= QUERY_COUNT) continue;
#pragma unroll
      for (int n = 0; n < DV / 8; ++n) {
        int d = n * 8 + t * 2;
        float pair[2] = {out[n][half * 2] * part, out[n][half * 2 + 1] * part};
        if (Y_PAIRS && d < V_DEPTH) write<2>(to + d, pair);
#pragma unroll
        for (int e = 0; e < 2; ++e)
          if (!Y_PAIRS && d + e < V_DEPTH) to[d + e] = convert<TY>(pair[e]);
      }
#endif
    }
  }
}
