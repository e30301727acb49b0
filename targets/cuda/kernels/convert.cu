// Numbers of one type as numbers of another, in the same order: eight per thread.

extern "C" __global__ void __launch_bounds__(256) KERNEL(PARAMETERS, int count) {
  wait_for_predecessor();
  int i = blockIdx.x * 256 + threadIdx.x;
  if (i >= count) return;
  float v[8];
  read_fresh<8>(v, X_POINTER + (long long)i * 8);
  write<8>(y + (long long)i * 8, v);
}
