// Products of float32 numbers by TF32, which cuts the last 13 bits off: what that leaves of either
// factor is multiplied, too. Warps that fetch put what is left of weights behind them; those that
// multiply have what is left of data in registers. The product of both rests is below float32's
// last bit.

// What is left of a number as it lies in memory, so that it is rounded where tensor cores cut it off.
__device__ __forceinline__ unsigned rest_of(unsigned bits) {
  return __float_as_uint(__uint_as_float(bits) - __uint_as_float(bits & CUT)) + 0x1000u;
}

__device__ __forceinline__ void write_rests(unsigned b, unsigned worker) {
  constexpr int COUNT = B_BYTES / 16 / COPYING, AT_ONCE = COUNT % 4 == 0 ? 4 : COUNT % 3 == 0 ? 3 : COUNT % 2 == 0 ? 2 : 1;
  static_assert(COUNT > 0 && B_BYTES % (16 * COPYING) == 0, "as many for each thread");
#pragma unroll 1
  for (int i = 0; i < COUNT; i += AT_ONCE) {
    uint4 v[AT_ONCE];
    unsigned from = b + (worker + i * COPYING) * 16;
#pragma unroll
    for (int j = 0; j < AT_ONCE; ++j) v[j] = load_shared_128(from + j * COPYING * 16);
#pragma unroll
    for (int j = 0; j < AT_ONCE; ++j)
      store_shared(from + B_BYTES + j * COPYING * 16, make_uint4(rest_of(v[j].x), rest_of(v[j].y), rest_of(v[j].z), rest_of(v[j].w)));
  }
}

// Tensor cores truncate their sums: those of a tile are added up in float32.
__device__ __forceinline__ void multiply_with_rests(Sum acc[MT][NT][4], unsigned a, unsigned b, int wm) {
  constexpr int STEPS = ROW_BYTES / 32, CHUNKS = ROW_BYTES / 16;
  Sum part[MT][NT][4];
  begin_wgmma();
#pragma unroll
  for (int step = 0; step < STEPS; ++step)
#pragma unroll
    for (int i = 0; i < MT; ++i) {
      unsigned from = a + (wm + i * 64) * ROW_BYTES + step * 32;
      wgmma(&part[i][0][0], from, b + B_BYTES + step * 32, step > 0);
      wgmma(&part[i][0][0], from, b + step * 32);
    }
  // While those are running: ldmatrix gives four threads a word each of four neighbours of a row.
  unsigned rests[MT][STEPS][4];
#pragma unroll
  for (int i = 0; i < MT; ++i)
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
      int lane = threadIdx.x % 32, r = wm + i * 64 + threadIdx.x % 128 / 32 * 16 + (lane & 15), chunk = step * 2 + (lane >> 4);
      load_matrix(rests[i][step], a + r * ROW_BYTES + ((chunk ^ (r * ROW_BYTES / 128 & (CHUNKS - 1))) << 4));
#pragma unroll
      for (int e = 0; e < 4; ++e) rests[i][step][e] = rest_of(rests[i][step][e]);
    }
  begin_wgmma();
#pragma unroll
  for (int step = 0; step < STEPS; ++step)
#pragma unroll
    for (int i = 0; i < MT; ++i) wgmma_rows(&part[i][0][0], rests[i][step], b + step * 32);
  commit_wgmma();
  wait_wgmma<0>();
#pragma unroll
  for (int i = 0; i < MT * STEPS * 4; ++i) finished((&rests[0][0][0])[i]);
#pragma unroll
  for (int i = 0; i < MT * NT * 4; ++i) {
    finished((&part[0][0][0])[i]);
    (&acc[0][0][0])[i] += (&part[0][0][0])[i];
  }
}
