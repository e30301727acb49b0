// Products of a few rows with packed weights: a warp computes one column, reading its weights once.

constexpr int E = 16 / sizeof(T), CHUNKS = (K + E - 1) / E, DEPTH = (K + 128 / (int)sizeof(T) - 1) /
    (128 / (int)sizeof(T)) * (128 / (int)sizeof(T));

extern "C" __global__ void __launch_bounds__(128) KERNEL(PARAMETERS) {
  int lane = threadIdx.x % 32, n = blockIdx.x * 4 + threadIdx.x / 32;
  if (n >= N) return;
  const T* b = B_POINTER + (long long)n * DEPTH;
  float sums[M] = {};
#pragma unroll 8
  for (int chunk = lane; chunk < CHUNKS; chunk += 32) {
    float weights[E];
    read<E>(weights, b + chunk * E);
#pragma unroll
    for (int m = 0; m < M; ++m) {
      float x[E];
      const TA* a = A_POINTER + m * K + chunk * E;
      if constexpr (K % E == 0) {
        read<E>(x, a);
      } else {
#pragma unroll
        for (int e = 0; e < E; ++e) x[e] = chunk * E + e < K ? to_float(a[e]) : 0.0f;
      }
#pragma unroll
      for (int e = 0; e < E; ++e) sums[m] += weights[e] * x[e];
    }
  }
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int step = 16; step; step /= 2) sums[m] += __shfl_xor_sync(0xffffffffu, sums[m], step);
  float mine = sums[0];
#pragma unroll
  for (int m = 1; m < M; ++m) mine = lane == m ? sums[m] : mine;
  if (lane >= M) return;
  float v[V] = {mine};
  int m = lane;
  long long at = (long long)m * N + n;
  EPILOGUE
}
