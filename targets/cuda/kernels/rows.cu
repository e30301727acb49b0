// Layer norm, RMS norm and softmax over rows of D numbers, each held in registers by TEAM threads.
// IS_ROUNDED: the result are floats of eight bits.

constexpr int COUNT = (D + TEAM * V - 1) / (TEAM * V), TEAMS = 128 / TEAM, WARPS = TEAM / 32;

// The sum, or the largest, of what all threads of a row have; `place` is theirs in shared memory.
template <bool IS_SUM> __device__ __forceinline__ float all(float x, float* place) {
#pragma unroll
  for (int step = 16; step; step /= 2) {
    float other = __shfl_xor_sync(0xffffffffu, x, step);
    x = IS_SUM ? x + other : fmaxf(x, other);
  }
  if constexpr (WARPS > 1) {
    __syncthreads();  // others may still read what was there
    if (threadIdx.x % 32 == 0) place[threadIdx.x % TEAM / 32] = x;
    __syncthreads();
    x = place[0];
#pragma unroll
    for (int w = 1; w < WARPS; ++w) x = IS_SUM ? x + place[w] : fmaxf(x, place[w]);
  }
  return x;
}

extern "C" __global__ void __launch_bounds__(128) KERNEL(PARAMETERS, int rows) {
  int m = blockIdx.x * TEAMS + threadIdx.x / TEAM, lane = threadIdx.x % TEAM;
  float* place = reinterpret_cast<float*>(shared_memory()) + threadIdx.x / TEAM * WARPS;
  CONSTANTS
  wait_for_predecessor();
  OTHERS
  bool valid = m < rows;  // all threads of a row agree, but all of a block meet
  float x[COUNT][V];
#pragma unroll
  for (int i = 0; i < COUNT; ++i) {
    int n = (i * TEAM + lane) * V;
    if (valid && n < D) {
      read_fresh<V>(x[i], X_POINTER + (long long)m * D + n);
    } else {
#pragma unroll
      for (int e = 0; e < V; ++e) x[i][e] = IS_SOFTMAX ? -INFINITY_ : 0.0f;
    }
  }
  float shift = 0.0f, total = 0.0f;
  if (IS_SOFTMAX) {
    shift = -INFINITY_;
#pragma unroll
    for (int i = 0; i < COUNT * V; ++i) shift = fmaxf(shift, x[i / V][i % V]);
    shift = all<false>(shift, place);
#pragma unroll
    for (int i = 0; i < COUNT * V; ++i) {
      x[i / V][i % V] = expf(x[i / V][i % V] - shift);
      total += x[i / V][i % V];
    }
    total = 1.0f / all<true>(total, place);
  } else {
    if (IS_CENTERED) {
#pragma unroll
      for (int i = 0; i < COUNT * V; ++i) shift += x[i / V][i % V];
      shift = all<true>(shift, place) / D;
    }
#pragma unroll
    for (int i = 0; i < COUNT; ++i)
#pragma unroll
      for (int e = 0; e < V; ++e) {
        bool inside = (i * TEAM + lane) * V < D;
        x[i][e] = inside ? x[i][e] - shift : 0.0f;
        total += x[i][e] * x[i][e];
      }
    total = 1.0f / sqrtf(all<true>(total, place) / D + EPSILON);
  }
  if (!valid) return;
#ifdef IS_ROUNDED
  float largest = 0.0f;
  auto keep = [&](const float* v, int i) {
#pragma unroll
    for (int e = 0; e < V; ++e) x[i][e] = v[e], largest = fmaxf(largest, fabsf(v[e]));
  };
#endif
#pragma unroll
  for (int i = 0; i < COUNT; ++i) {
    int n = (i * TEAM + lane) * V;
    if (n >= D) continue;
    float v[V];
#pragma unroll
    for (int e = 0; e < V; ++e) v[e] = x[i][e] * total;
    AFFINE
    long long at = (long long)m * D + n;
    EPILOGUE
  }
#ifdef IS_ROUNDED
  Row8 row(all<false>(largest, place), y, rows, m, D);
#pragma unroll
  for (int i = 0; i < COUNT; ++i) {
    int n = (i * TEAM + lane) * V;
    if (n < D) row.write(n, [&](int e) { return x[i][e]; });
  }
  if (lane == 0) row.write_scale();
#endif
}
