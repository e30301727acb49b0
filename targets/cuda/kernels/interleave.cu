// A map of up to four channels, pixel after pixel in memory, with zeros for channels
// that are missing: what convolutions with few channels read in whole vectors.

extern "C" __global__ void __launch_bounds__(256) KERNEL(PARAMETERS, int pixels) {
  wait_for_predecessor();
  int i = blockIdx.x * 256 + threadIdx.x;
  if (i >= pixels) return;
  int image = i / PLANE, at = i % PLANE;
  float v[4] = {};
#pragma unroll
  for (int c = 0; c < C; ++c) v[c] = to_float(load_fresh(X_POINTER + (long long)image * (C * PLANE) + at * X_PIXEL + c * X_C));
  union {
    T at[4];
    Bits bits;
  } packed;
#pragma unroll
  for (int c = 0; c < 4; ++c) packed.at[c] = convert<T>(v[c]);
  reinterpret_cast<Bits*>(y)[i] = packed.bits;
}
