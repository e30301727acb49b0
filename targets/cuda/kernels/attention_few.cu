// softmax(chain(Q K^T)) V of a few queries over many keys: as fast as keys and values can be read.
// Every warp takes a stretch of keys, with as many threads to a key as its row has 16-byte chunks;
// warps, then blocks of a cluster, agree on one softmax at the end.
// Reference: Dao et al., Flash-Decoding for long-context inference, 2023.

constexpr int WARPS = 4, BATCH = 8, EK = 16 / sizeof(TK), EV = 16 / sizeof(TV);
constexpr int LANES = DEPTH / EK, SIDES = 32 / LANES, QUERIES = QUERY_COUNT, PITCH = DEPTH + 4;
constexpr int SPAN = (KEY_COUNT + SPLIT * WARPS - 1) / (SPLIT * WARPS);
constexpr float LOG2E = 1.4426950408889634f;
static_assert(EK == EV && V_DEPTH == DEPTH, "rows of keys and values are alike");

// The softmax of two parts: their peaks, their totals, their sums.
struct Softmax {
  float peak = -INFINITY_, total = 0.0f, sums[4] = {};
  __device__ __forceinline__ void add(float4 head, float4 part) {
    float top = fmaxf(peak, head.x), safe = top == -INFINITY_ ? 0.0f : top;
    float mine = exp2f((peak - safe) * LOG2E), theirs = exp2f((head.x - safe) * LOG2E);
    peak = top, total = total * mine + head.y * theirs;
    sums[0] = sums[0] * mine + part.x * theirs, sums[1] = sums[1] * mine + part.y * theirs;
    sums[2] = sums[2] * mine + part.z * theirs, sums[3] = sums[3] * mine + part.w * theirs;
  }
};

#if SPLIT > 1
#define CLUSTER __cluster_dims__(SPLIT, 1, 1)
#else
#define CLUSTER
#endif
extern "C" __global__ void CLUSTER __launch_bounds__(128) KERNEL(PARAMETERS) {
  int batch = blockIdx.y / HEADS, head = blockIdx.y % HEADS, share = blockIdx.x % SPLIT;
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, side = lane / LANES, c = lane % LANES * EK;
  int first = (share * WARPS + warp) * SPAN, last = min(first + SPAN, (int)KEY_COUNT);
  float* parts = reinterpret_cast<float*>(shared_memory());
#define ROWS_OF(X) X##_POINTER + X##_OFFSET + batch * X##_S0 + head * X##_S1
  const TK *k1 = ROWS_OF(K), *k2 = ROWS_OF(K2);
  const TV *v1 = ROWS_OF(V), *v2 = ROWS_OF(V2);
  // Earlier positions are there before the query is; to call for others is in vain, but no harm.
  constexpr int LINES = (DEPTH * (int)sizeof(TK) + 127) / 128;
  for (int i = lane; i < (min(last, (int)K_COUNT) - first) * LINES; i += 32)
    prefetch(k1 + (first + i / LINES) * K_S2 + i % LINES * (128 / (int)sizeof(TK)));
  for (int i = lane; i < (min(last, (int)V_COUNT) - first) * LINES; i += 32)
    prefetch(v1 + (first + i / LINES) * V_S2 + i % LINES * (128 / (int)sizeof(TV)));
  wait_for_predecessor();

  float q[QUERIES][EK], out[QUERIES][EK] = {}, peak[QUERIES], total[QUERIES] = {};
#pragma unroll
  for (int i = 0; i < QUERIES; ++i) {
    read_fresh<EK>(q[i], ROWS_OF(Q) + i * Q_S2 + c);
    peak[i] = -INFINITY_;
  }
  for (int base = first; base < last; base += BATCH * SIDES) {
    Held<EK, TK> k[BATCH];
    Held<EK, TV> v[BATCH];
#pragma unroll
    for (int b = 0; b < BATCH; ++b)
      if (int key = base + b * SIDES + side; key < last)
        k[b].load((key < K_COUNT ? k1 + key * K_S2 : k2 + (key - K_COUNT) * K2_S2) + c);
#pragma unroll
    for (int b = 0; b < BATCH; ++b)
      if (int key = base + b * SIDES + side; key < last)
        v[b].load((key < V_COUNT ? v1 + key * V_S2 : v2 + (key - V_COUNT) * V2_S2) + c);
#pragma unroll
    for (int query = 0; query < QUERIES; ++query) {
      float s[BATCH], top = peak[query];
#pragma unroll
      for (int b = 0; b < BATCH; ++b) {
        int key = base + b * SIDES + side;
        float score = 0.0f;
#pragma unroll
        for (int e = 0; e < EK; ++e) score += q[query][e] * k[b][e];
#pragma unroll
        for (int step = LANES / 2; step; step /= 2) score += __shfl_xor_sync(0xffffffffu, score, step);
        score *= SCALE;
        if (key < last) {
          CHAIN
        } else {
          score = -INFINITY_;
        }
        s[b] = score;
        top = fmaxf(top, score);
      }
#pragma unroll
      for (int step = LANES; step < 32; step *= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, step));
      // Where everything so far is masked away, any finite number serves.
      float safe = top == -INFINITY_ ? 0.0f : top, shrink = exp2f((peak[query] - safe) * LOG2E);
      peak[query] = top, total[query] *= shrink;
#pragma unroll
      for (int e = 0; e < EK; ++e) out[query][e] *= shrink;
#pragma unroll
      for (int b = 0; b < BATCH; ++b) {
        if (base + b * SIDES + side >= last) continue;
        float weight = exp2f((s[b] - safe) * LOG2E);
        total[query] += weight;
#pragma unroll
        for (int e = 0; e < EK; ++e) out[query][e] += weight * v[b][e];
      }
    }
  }

#pragma unroll
  for (int query = 0; query < QUERIES; ++query) {
#pragma unroll
    for (int step = LANES; step < 32; step *= 2) {
      total[query] += __shfl_xor_sync(0xffffffffu, total[query], step);
#pragma unroll
      for (int e = 0; e < EK; ++e) out[query][e] += __shfl_xor_sync(0xffffffffu, out[query][e], step);
    }
    float* to = parts + ((1 + warp) * QUERIES + query) * PITCH;
    if (lane == 0) to[0] = peak[query], to[1] = total[query];
    if (side == 0) {
#pragma unroll
      for (int e = 0; e < EK; ++e) to[4 + c + e] = out[query][e];
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < QUERIES * (DEPTH / 4); i += WARPS * 32) {
    int query = i / (DEPTH / 4), d = i % (DEPTH / 4) * 4;
    Softmax all;
#pragma unroll
    for (int w = 0; w < WARPS; ++w) {
      const float* from = parts + ((1 + w) * QUERIES + query) * PITCH;
      all.add(*reinterpret_cast<const float4*>(from), *reinterpret_cast<const float4*>(from + 4 + d));
    }
    float* to = parts + query * PITCH;
    if (d == 0) to[0] = all.peak, to[1] = all.total;
#pragma unroll
    for (int e = 0; e < 4; ++e) to[4 + d + e] = all.sums[e];
  }
#if SPLIT > 1
  meet_cluster();
#else
  __syncthreads();
#endif
  for (int i = share * WARPS * 32 + threadIdx.x; i < QUERIES * (DEPTH / 4); i += SPLIT * WARPS * 32) {
    int query = i / (DEPTH / 4), d = i % (DEPTH / 4) * 4;
    Softmax all;
#if SPLIT > 1
    unsigned from = (unsigned)__cvta_generic_to_shared(parts + query * PITCH);
    float4 heads[SPLIT], rest[SPLIT];
#pragma unroll
    for (int s = 0; s < SPLIT; ++s) heads[s] = load_cluster(from, s), rest[s] = load_cluster(from + 16 + d * 4, s);
#pragma unroll
    for (int s = 0; s < SPLIT; ++s) all.add(heads[s], rest[s]);
#else
    const float* from = parts + query * PITCH;
    all.add(*reinterpret_cast<const float4*>(from), *reinterpret_cast<const float4*>(from + 4 + d));
#endif
    TY* to = y + batch * Y_S0 + head * Y_S1 + query * Y_S2 + d;
#pragma unroll
    for (int e = 0; e < 4; ++e) to[e] = convert<TY>(all.sums[e] / all.total);
  }
#if SPLIT > 1
  meet_cluster();  // nobody leaves while others read its sums
#endif
}
