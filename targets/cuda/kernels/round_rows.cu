// Rows of D numbers as e4m3: the largest of a row becomes the largest that there is, 448. Behind the
// last row, a float32 for each: what its numbers are to be multiplied by.

constexpr int COUNT = (D + TEAM * V - 1) / (TEAM * V), TEAMS = 256 / TEAM, WARPS = TEAM / 32;

extern "C" __global__ void __launch_bounds__(256) KERNEL(PARAMETERS, int rows) {
  float* place = reinterpret_cast<float*>(shared_memory()) + threadIdx.x / TEAM * WARPS;
  int m = blockIdx.x * TEAMS + threadIdx.x / TEAM, lane = threadIdx.x % TEAM;
  wait_for_predecessor();
  bool valid = m < rows;  // all threads of a row agree, but all of a block meet
  Held<V, Source> x[COUNT];
  float largest = 0.0f;
#pragma unroll
  for (int i = 0; i < COUNT; ++i) {
    int n = (i * TEAM + lane) * V;
    if (valid && n < D) x[i].load(X_POINTER + (long long)m * D + n);
  }
#pragma unroll
  for (int i = 0; i < COUNT; ++i) {
    if (!valid || (i * TEAM + lane) * V >= D) continue;
#pragma unroll
    for (int e = 0; e < V; ++e) largest = fmaxf(largest, fabsf(x[i][e]));
  }
#pragma unroll
  for (int step = 16; step; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, step));
  if constexpr (WARPS > 1) {
    if (threadIdx.x % 32 == 0) place[threadIdx.x % TEAM / 32] = largest;
    __syncthreads();
#pragma unroll
    for (int w = 0; w < WARPS; ++w) largest = fmaxf(largest, place[w]);
  }
  if (!valid) return;
  Row8 row(largest, y, rows, m, D);
#pragma unroll
  for (int i = 0; i < COUNT; ++i) {
    int n = (i * TEAM + lane) * V;
    if (n < D) row.write(n, [&](int e) { return x[i][e]; });
  }
  if (lane == 0) row.write_scale();
}
