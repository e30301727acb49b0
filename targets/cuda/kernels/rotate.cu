// Rotary embeddings: a thread turns V numbers of a row's first half with those of its second.

constexpr int HALF = DEPTH / 2, PER_ROW = HALF / V;

extern "C" __global__ void __launch_bounds__(256) KERNEL(PARAMETERS) {
  wait_for_predecessor();
  int i = blockIdx.x * 256 + threadIdx.x;
  if (i >= COUNT) return;
  int c = i % PER_ROW * V, row = i / PER_ROW, i2 = row % D2, i1 = row / D2 % D1, i0 = row / D2 / D1;
  float low[V], high[V], cos_low[V], cos_high[V], sin_low[V], sin_high[V];
#define OF(X) X##_POINTER + X##_OFFSET + i0 * X##_S0 + i1 * X##_S1 + i2 * X##_S2 + c
  read_fresh<V>(low, OF(X)), read_fresh<V>(high, OF(X) + HALF);
  read_fresh<V>(cos_low, OF(COS)), read_fresh<V>(cos_high, OF(COS) + HALF);
  read_fresh<V>(sin_low, OF(SIN)), read_fresh<V>(sin_high, OF(SIN) + HALF);
#pragma unroll
  for (int e = 0; e < V; ++e) {
    float turned = low[e] * cos_low[e] - high[e] * sin_low[e];
    high[e] = high[e] * cos_high[e] + low[e] * sin_high[e];
    low[e] = turned;
  }
  write<V>(y + (long long)row * DEPTH + c, low);
  write<V>(y + (long long)row * DEPTH + HALF + c, high);
}
