// softmax(chain(Q K^T)) V without writing scores to memory: every warp holds 16 queries and passes
// over tiles of 64 keys, correcting its sums whenever a larger score appears.
//
// Rows of tiles in shared memory are an odd number of 16-byte chunks apart, so that ldmatrix meets
// no bank conflicts. Tiles of keys and values are fetched one ahead.
// Reference: Dao, FlashAttention-2, 2023; Milakov and Gimelshein, Online normalizer calculation for
// softmax, 2018.

constexpr int E = 16 / sizeof(T);
constexpr int THREADS = WARPS * 32, QUERIES = WARPS * 16, KEYS = 64;
constexpr int Q_PITCH = DQ * (int)sizeof(T) + 16, V_PITCH = DV * (int)sizeof(T) + 16;
constexpr int K_BYTES = KEYS * Q_PITCH, V_BYTES = KEYS * V_PITCH;
constexpr int STEP = 32 / sizeof(T);  // elements of depth per matrix instruction

// One chunk of a row into shared memory, zeros where there is none: copied, or read whole and
// converted, or read number by number.
template <int LOAD, typename Stored>
__device__ __forceinline__ void load_chunk(unsigned place, const Stored* from, int c, bool exists, int depth, long long stride) {
  const Stored* source = from + c * E * stride;
  if constexpr (LOAD == COPIED) {
    bool valid = exists && c * E < depth;
    copy_async(place, valid ? source : from, valid);
  } else if constexpr (LOAD == CONVERTED) {
    float wide[E] = {};
    if (exists && c * E < depth) read_fresh<E>(wide, source);
    Chunk<T> values;
#pragma unroll
    for (int e = 0; e < E; ++e) values.at[e] = convert<T>(wide[e]);
    store_shared(place, values.bits);
  } else {
    Chunk<T> values;
#pragma unroll
    for (int e = 0; e < E; ++e) {
      bool valid = exists && c * E + e < depth;
      values.at[e] = convert<T>(valid ? to_float(load_fresh(source + e * stride)) : 0.0f);
    }
    store_shared(place, values.bits);
  }
}

// Where rows of a strided matrix lie.
template <typename Stored> struct Rows {
  const Stored* from;
  long long row_stride, column_stride;
};

// Rows `first` .. of a matrix into shared memory; zeros outside. Those from `SPLIT_ROW` on lie in
// another tensor: keys of new positions behind those of earlier ones.
template <int COUNT, int PADDED, int LOAD, int PITCH, int SPLIT_ROW, typename Stored, typename Later>
__device__ __forceinline__ void load_rows(unsigned to, Rows<Stored> a, Rows<Later> b, int first, int rows, int depth) {
  constexpr int CHUNKS = PADDED / E;
  for (int i = threadIdx.x; i < COUNT * CHUNKS; i += THREADS) {
    int r = i / CHUNKS, c = i % CHUNKS, row = first + r;
    unsigned place = to + r * PITCH + c * 16;
    bool exists = row < rows;
    if (row < SPLIT_ROW || !exists) load_chunk<LOAD>(place, a.from + (exists ? row : 0) * a.row_stride, c, exists, depth, a.column_stride);
    else load_chunk<LOAD>(place, b.from + (row - SPLIT_ROW) * b.row_stride, c, exists, depth, b.column_stride);
  }
}

__device__ __forceinline__ unsigned pack(float low, float high) {
  Chunk<T> chunk;
  chunk.at[0] = convert<T>(low);
  chunk.at[1] = convert<T>(high);
  return chunk.bits.x;
}

#if SPLIT > 1
#define CLUSTER __cluster_dims__(SPLIT, 1, 1)
#else
#define CLUSTER
#endif
extern "C" __global__ void CLUSTER __launch_bounds__(THREADS) KERNEL(PARAMETERS) {
  wait_for_predecessor();
  unsigned char* memory = shared_memory();
  unsigned q_tile = (unsigned)__cvta_generic_to_shared(memory);
  unsigned kv_tiles = q_tile + QUERIES * Q_PITCH;
  int batch = blockIdx.y / HEADS, head = blockIdx.y % HEADS, share = blockIdx.x % SPLIT;
  int q0 = blockIdx.x / SPLIT * QUERIES;
  const TQ* q = Q_POINTER + Q_OFFSET + batch * Q_S0 + head * Q_S1;
  Rows<TQ> q_rows{q, Q_S2, Q_S3};
#define PART(X) {X##_POINTER + X##_OFFSET + batch * X##_S0 + head * X##_S1, X##_S2, X##_S3}
  Rows<TK> k PART(K);
  Rows<TK2> k2 PART(K2);
  Rows<TV> v PART(V);
  Rows<TV2> v2 PART(V2);
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane >> 2, t = lane & 3;
  int row = warp * 16;

  // The blocks of a cluster share queries; each takes every SPLIT-th tile of keys.
  auto fetch = [&](int tile) {
    unsigned to = kv_tiles + tile / SPLIT % 2 * (K_BYTES + V_BYTES);
    load_rows<KEYS, DQ, K_LOAD, Q_PITCH, K_COUNT>(to, k, k2, tile * KEYS, KEY_COUNT, DEPTH);
    load_rows<KEYS, DV, V_LOAD, V_PITCH, V_COUNT>(to + K_BYTES, v, v2, tile * KEYS, KEY_COUNT, V_DEPTH);
    commit();
  };
  load_rows<QUERIES, DQ, Q_LOAD, Q_PITCH, QUERY_COUNT>(q_tile, q_rows, q_rows, q0, QUERY_COUNT, DEPTH);
  fetch(share);

  float out[1][DV / 8][4] = {}, largest[2] = {-INFINITY_, -INFINITY_}, total[2] = {0.0f, 0.0f};
  constexpr int TILES = (KEY_COUNT + KEYS - 1) / KEYS;
  unsigned fq[DQ / STEP][1][4];
  for (int tile = share; tile < TILES; tile += SPLIT) {
    PRELOAD
    if (tile + SPLIT < TILES) {
      fetch(tile + SPLIT);
      wait<1>();
    } else {
      wait<0>();
    }
    __syncthreads();
    unsigned k_tile = kv_tiles + tile / SPLIT % 2 * (K_BYTES + V_BYTES), v_tile = k_tile + K_BYTES;

    // Halves of queries stay in registers.
    constexpr bool KEEPS = MODE < 2;
    float s[1][8][4] = {};
#pragma unroll
    for (int step = 0; step < DQ / STEP; ++step) {
      unsigned fb[8][2], fa[1][4];
      if (!KEEPS || tile == share) {
        load_matrix(fq[step][0], q_tile + (row + (lane & 15)) * Q_PITCH + (step * 2 + (lane >> 4)) * 16);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) fa[0][i] = fq[step][0][i];
#pragma unroll
      for (int j = 0; j < 8; j += 2) {
        unsigned pair[4];
        int key = j * 8 + (lane & 7) + ((lane >> 4) << 3);
        load_matrix(pair, k_tile + key * Q_PITCH + (step * 2 + ((lane >> 3) & 1)) * 16);
        fb[j][0] = pair[0], fb[j][1] = pair[1], fb[j + 1][0] = pair[2], fb[j + 1][1] = pair[3];
      }
      multiply_fragments<1, 8>(s, fa, fb);
    }

    float peak[2] = {largest[0], largest[1]};
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        int query = q0 + row + g + e / 2 * 8, key = tile * KEYS + j * 8 + t * 2 + e % 2;
        float score = -INFINITY_;
        if (key < KEY_COUNT && query < QUERY_COUNT) {
          score = s[0][j][e] * SCALE;
          CHAIN
        }
        s[0][j][e] = score;
        peak[e / 2] = fmaxf(peak[e / 2], score);
      }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      peak[half] = fmaxf(peak[half], __shfl_xor_sync(0xffffffffu, peak[half], 1));
      peak[half] = fmaxf(peak[half], __shfl_xor_sync(0xffffffffu, peak[half], 2));
      // Where everything so far is masked away, any finite number serves.
      float safe = peak[half] == -INFINITY_ ? 0.0f : peak[half];
      float shrink = exp2f((largest[half] - safe) * 1.4426950408889634f), sum = 0.0f;
      largest[half] = peak[half];
#pragma unroll
      for (int j = 0; j < 8; ++j)
#pragma unroll
        for (int e = half * 2; e < half * 2 + 2; ++e) {
          s[0][j][e] = exp2f((s[0][j][e] - safe) * 1.4426950408889634f);
          sum += s[0][j][e];
        }
      total[half] = total[half] * shrink + sum;
#pragma unroll
      for (int n = 0; n < DV / 8; ++n) out[0][n][half * 2] *= shrink, out[0][n][half * 2 + 1] *= shrink;
    }

#pragma unroll
    for (int step = 0; step < KEYS / STEP; ++step) {
      unsigned fa[1][4], fb[DV / 8][2];
#if MODE < 2
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float* p = s[0][step * 2 + i / 2] + i % 2 * 2;
        fa[0][i] = pack(p[0], p[1]);
      }
#pragma unroll
      for (int n = 0; n < DV / 8; n += 2) {
        unsigned pair[4];
        load_matrix_transposed(pair, v_tile + (step * 16 + (lane & 15)) * V_PITCH + (n + (lane >> 4)) * 16);
        fb[n][0] = pair[0], fb[n][1] = pair[1], fb[n + 1][0] = pair[2], fb[n + 1][1] = pair[3];
      }
#else
      // The order of keys within a step is free, if P and V agree: thread t holds keys 2t and 2t+1.
      float* p = s[0][step];
      fa[0][0] = __float_as_uint(p[0]), fa[0][1] = __float_as_uint(p[2]);
      fa[0][2] = __float_as_uint(p[1]), fa[0][3] = __float_as_uint(p[3]);
#pragma unroll
      for (int n = 0; n < DV / 8; ++n)
#pragma unroll
        for (int i = 0; i < 2; ++i)
          fb[n][i] = load_shared(v_tile + (step * 8 + t * 2 + i) * V_PITCH + (n * 8 + g) * 4);
#endif
      multiply_fragments<1, DV / 8>(out, fa, fb);
    }
    __syncthreads();
  }

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    total[half] += __shfl_xor_sync(0xffffffffu, total[half], 1);
    total[half] += __shfl_xor_sync(0xffffffffu, total[half], 2);
#if SPLIT == 1
    int query = q0 + row + g + half * 8;
    if (query >= QUERY_COUNT) continue;
    TY* to = y + batch * Y_S0 + head * Y_S1 + query * Y_S2;
    float part = 1.0f / total[half];
#pragma unroll
    for (int n = 0; n < DV / 8; ++n) {
      int d = n * 8 + t * 2;
      float pair[2] = {out[0][n][half * 2] * part, out[0][n][half * 2 + 1] * part};
      if (Y_PAIRS && d < V_DEPTH) write<2>(to + d, pair);
#pragma unroll
      for (int e = 0; e < 2; ++e)
        if (!Y_PAIRS && d + e < V_DEPTH) to[d + e] = convert<TY>(pair[e]);
    }
#endif
  }
#if SPLIT > 1
  // Every block lays down its peak, its total and its sums; together they are one softmax.
  constexpr int PITCH = (DV + 4) * 4;
  wait<0>();
  __syncthreads();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float* to = reinterpret_cast<float*>(memory + (row + g + half * 8) * PITCH);
    if (t == 0) to[0] = largest[half], to[1] = total[half];
#pragma unroll
    for (int n = 0; n < DV / 8; ++n)
#pragma unroll
      for (int e = 0; e < 2; ++e) to[4 + n * 8 + t * 2 + e] = out[0][n][half * 2 + e];
  }
  meet_cluster();
  for (int i = share * THREADS + threadIdx.x; i < QUERIES * (DV / 4); i += SPLIT * THREADS) {
    int r = i / (DV / 4), d = i % (DV / 4) * 4, query = q0 + r;
    if (query >= QUERY_COUNT) continue;
    unsigned from = q_tile + r * PITCH;
    float4 heads[SPLIT];
    float peak = -INFINITY_, whole = 0.0f, sums[4] = {};
#pragma unroll
    for (int s = 0; s < SPLIT; ++s) {
      heads[s] = load_cluster(from, s);
      peak = fmaxf(peak, heads[s].x);
    }
    float safe = peak == -INFINITY_ ? 0.0f : peak;
#pragma unroll
    for (int s = 0; s < SPLIT; ++s) {
      float weight = exp2f((heads[s].x - safe) * 1.4426950408889634f);
      float4 part = load_cluster(from + 16 + d * 4, s);
      whole += weight * heads[s].y;
      sums[0] += weight * part.x, sums[1] += weight * part.y;
      sums[2] += weight * part.z, sums[3] += weight * part.w;
    }
    TY* to = y + batch * Y_S0 + head * Y_S1 + query * Y_S2;
#pragma unroll
    for (int e = 0; e < 4; ++e)
      if (d + e < V_DEPTH) to[d + e] = convert<TY>(sums[e] / whole);
  }
  meet_cluster();
#endif
}
