// A map of up to four channels, pixel after pixel in memory, with zeros for channels
// that are missing: what convolutions with few channels read in whole vectors. A thread has PIXELS of
// them, read at once where each channel is a map of its own.

extern "C" __global__ void __launch_bounds__(256) KERNEL(PARAMETERS, int threads) {
  wait_for_predecessor();
  int i = blockIdx.x * 256 + threadIdx.x;
  if (i >= threads) return;
  int image = i / (PLANE / PIXELS), at = i % (PLANE / PIXELS) * PIXELS;
  float v[4][PIXELS] = {};
#pragma unroll
  for (int c = 0; c < C; ++c) read_fresh<PIXELS>(v[c], X_POINTER + (long long)image * (C * PLANE) + at * X_PIXEL + c * X_C);
  struct alignas(sizeof(Bits) * PIXELS < 16 ? sizeof(Bits) * PIXELS : 16) Pixels {
    Bits bits[PIXELS];
  };
  union {
    T at[PIXELS][4];
    Pixels all;
  } packed;
#pragma unroll
  for (int p = 0; p < PIXELS; ++p)
#pragma unroll
    for (int c = 0; c < 4; ++c) packed.at[p][c] = convert<T>(v[c][p]);
  reinterpret_cast<Pixels*>(y)[i] = packed.all;
}
