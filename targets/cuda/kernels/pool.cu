// Pooling over channels-last maps: a thread computes V neighbouring channels of one pixel.
// The greatest element may be met twice: instead of a pixel outside, the nearest one inside is read, which
// belongs to the window as well. So nothing depends on where it is, and all are asked for at once.
constexpr bool CLAMPS = IS_MAX && DIL_H == 1 && DIL_W == 1 && PAD_H < KH && PAD_W < KW &&
                        (OH - 1) * STRIDE_H - PAD_H < H && (OW - 1) * STRIDE_W - PAD_W < W;
// Bytes are in the order of what they stand for: they are scaled last.
template <typename Type> struct Steps {
  unsigned char bits;
  static constexpr float ZERO = Type::ZERO, SCALE = 1.0f;
};
template <typename Type> __device__ __forceinline__ void take(float* v, const Type* from) {
  float x[V];
  if constexpr (IS_MAX && IS_BYTES<Type>) read_fresh<V>(x, reinterpret_cast<const Steps<Type>*>(from));
  else read_fresh<V>(x, from);
#pragma unroll
  for (int e = 0; e < V; ++e) {
    if (!IS_MAX) v[e] += x[e];
    else if (IS_BYTES<Type>) v[e] = fmaxf(v[e], x[e]);
    else v[e] = v[e] < x[e] || x[e] != x[e] ? x[e] : v[e];
  }
}
template <typename Type> __device__ __forceinline__ float result(float v, int count, const Type*) {
  if constexpr (!IS_MAX) return v / (COUNT_PADDING ? KH * KW : count);
  else if constexpr (IS_BYTES<Type>) return v * Type::SCALE;
  else return v;
}

extern "C" __global__ void __launch_bounds__(256) KERNEL(PARAMETERS, int pixels) {
  wait_for_predecessor();
  int i = blockIdx.x * 256 + threadIdx.x, n = i % (C / V) * V, m = i / (C / V);
  if (m >= pixels) return;
  int w0 = m % OW * STRIDE_W - PAD_W, h0 = m / OW % OH * STRIDE_H - PAD_H, image = m / (OW * OH);
  float v[V];
#pragma unroll
  for (int e = 0; e < V; ++e) v[e] = IS_MAX ? __int_as_float(0xff800000) : 0.0f;
  int count = 0;
#pragma unroll
  for (int kh = 0; kh < KH; ++kh)
#pragma unroll
    for (int kw = 0; kw < KW; ++kw) {
      int h = h0 + kh * DIL_H, w = w0 + kw * DIL_W;
      if (CLAMPS) h = min(max(h, 0), H - 1), w = min(max(w, 0), W - 1);
      else if (h < 0 || h >= H || w < 0 || w >= W) continue;
      take(v, X_POINTER + (((long long)image * H + h) * W + w) * C + n);
      ++count;
    }
#pragma unroll
  for (int e = 0; e < V; ++e) v[e] = result(v[e], count, X_POINTER);
  long long at = (long long)m * C + n;
  EPILOGUE
}
