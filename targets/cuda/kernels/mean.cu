// The mean over all pixels of channels-last maps: a block takes 32 * V channels of one image; eight
// warps share the pixels.

extern "C" __global__ void __launch_bounds__(256) KERNEL(PARAMETERS) {
  wait_for_predecessor();
  float* sums = reinterpret_cast<float*>(shared_memory());
  int lane = threadIdx.x % 32, part = threadIdx.x / 32, n = (blockIdx.x * 32 + lane) * V;
  float v[V] = {};
  if (n < C)
    for (int pixel = part; pixel < PIXELS; pixel += 8) {
      float x[V];
      read_fresh<V>(x, X_POINTER + ((long long)blockIdx.y * PIXELS + pixel) * C + n);
#pragma unroll
      for (int e = 0; e < V; ++e) v[e] += x[e];
    }
#pragma unroll
  for (int e = 0; e < V; ++e) sums[(part * V + e) * 32 + lane] = v[e];
  __syncthreads();
  if (part || n >= C) return;
#pragma unroll
  for (int e = 0; e < V; ++e) {
    v[e] = 0.0f;
#pragma unroll
    for (int p = 0; p < 8; ++p) v[e] += sums[(p * V + e) * 32 + lane];
    v[e] /= PIXELS;
  }
  long long at = (long long)blockIdx.y * C + n;
  EPILOGUE
}
