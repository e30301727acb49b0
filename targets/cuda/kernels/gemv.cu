// Products of a few rows with packed weights: a warp computes two columns, reading their weights
// once. Rows wait in shared memory, where they fit.

constexpr int SIZE = sizeof(T), E = 16 / SIZE, CHUNKS = (K + E - 1) / E;
constexpr int DEPTH = (K + 128 / SIZE - 1) / (128 / SIZE) * (128 / SIZE), COLUMNS = 2;

extern "C" __global__ void __launch_bounds__(128) KERNEL(PARAMETERS) {
  int lane = threadIdx.x % 32, first = (blockIdx.x * 4 + threadIdx.x / 32) * COLUMNS;
  const T* b = B_POINTER + (long long)min(first, N - 1) * DEPTH;
  // The last warps may have fewer columns: they read the last one again.
  const T* columns[COLUMNS];
#pragma unroll
  for (int c = 0; c < COLUMNS; ++c) {
    columns[c] = b + (first + c < N ? c * DEPTH : 0);
    // Weights are there before the rows are.
    for (int i = lane; i < DEPTH * SIZE / 128; i += 32) prefetch(columns[c] + i * (128 / SIZE));
  }
  wait_for_predecessor();
  const TA* rows = reinterpret_cast<const TA*>(shared_memory());
  if constexpr (IN_SHARED) {
    uint4* to = reinterpret_cast<uint4*>(shared_memory());
    for (int i = threadIdx.x; i < M * K * (int)sizeof(TA) / 16; i += 128) {
      to[i] = load_fresh_128(reinterpret_cast<const uint4*>(A_POINTER) + i);
    }
    __syncthreads();
  }
  if (first >= N) return;
  float sums[COLUMNS][M] = {};
#pragma unroll 4
  for (int chunk = lane; chunk < CHUNKS; chunk += 32) {
    float weights[COLUMNS][E];
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) read<E>(weights[c], columns[c] + chunk * E);
#pragma unroll
    for (int m = 0; m < M; ++m) {
      float x[E];
      if constexpr (IN_SHARED) {
        read<E>(x, rows + m * K + chunk * E);
      } else if constexpr (K % E == 0) {
        read_fresh<E>(x, A_POINTER + m * K + chunk * E);
      } else {
        const TA* a = A_POINTER + m * K + chunk * E;
#pragma unroll
        for (int e = 0; e < E; ++e) x[e] = chunk * E + e < K ? to_float(load_fresh(a + e)) : 0.0f;
      }
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c)
#pragma unroll
        for (int e = 0; e < E; ++e) sums[c][m] += weights[c][e] * x[e];
    }
  }
#pragma unroll
  for (int c = 0; c < COLUMNS; ++c)
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int step = 16; step; step /= 2) sums[c][m] += __shfl_xor_sync(0xffffffffu, sums[c][m], step);
  float mine = sums[0][0];
#pragma unroll
  for (int i = 1; i < COLUMNS * M; ++i) mine = lane == i ? sums[i / M][i % M] : mine;
  int n = first + lane / M, m = lane % M;
  if (lane >= COLUMNS * M || n >= N) return;
  float v[V] = {mine};
  long long at = (long long)m * N + n;
  EPILOGUE
}
