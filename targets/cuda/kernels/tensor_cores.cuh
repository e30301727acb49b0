// What kernels on tensor cores share: conversions, whole vectors, products of fragments.

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

__device__ __forceinline__ float to_float(signed char x) { return x; }
// e4m3; multiplied as it is, by tensor cores alone.
struct Float8 {
  unsigned char bits;
};
// A row of a matrix of these: its largest number becomes the largest that there is. Behind the last
// row, a float32 for each: what its numbers are to be multiplied by.
struct Row8 {
  Float8* to;
  float* place;
  float scale, inverse;
  __device__ __forceinline__ Row8(float largest, Float8* y, int rows, int m, int size) {
    // Of rows so small that the inverse would be infinite, everything is zero.
    bool is_zero = largest < 1e-35f;
    scale = is_zero ? 0.0f : largest * (1.0f / 448.0f), inverse = is_zero ? 0.0f : 448.0f / largest;
    to = y + (long long)m * size, place = reinterpret_cast<float*>(y + (long long)rows * size) + m;
  }
  // Eight neighbours from number n on.
  template <typename Values> __device__ __forceinline__ void write(int n, Values values) {
    unsigned words[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float a = values(i * 4) * inverse, b = values(i * 4 + 1) * inverse;
      words[i] = pack_e4m3(a, b, values(i * 4 + 2) * inverse, values(i * 4 + 3) * inverse);
    }
    *reinterpret_cast<uint2*>(to + n) = make_uint2(words[0], words[1]);
  }
  __device__ __forceinline__ void write_scale() { *place = scale; }
};
// Bytes that stand for SCALE * (bits - ZERO).
template <typename Bytes> __device__ __forceinline__ auto to_float(Bytes x) -> decltype(Bytes::SCALE + 0.0f) {
  return ((float)x.bits - Bytes::ZERO) * Bytes::SCALE;
}

// Byte number e of a word as a float: with the other bits of 2^23 around it. Conversions are slower.
__device__ __forceinline__ float byte_of(unsigned word, int e, float zero = 0.0f) {
  return __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7440 + e)) - (8388608.0f + zero);
}
template <typename Type, typename = void> constexpr bool IS_BYTES = false;
template <typename Type> constexpr bool IS_BYTES<Type, decltype((void)Type::ZERO)> = true;
// One of the neighbours that words hold.
template <typename Type> __device__ __forceinline__ float to_float(const unsigned* words, const Type* at, int e) {
  if constexpr (IS_BYTES<Type>) return byte_of(words[e / 4], e % 4, Type::ZERO) * Type::SCALE;
  else return to_float(at[e]);
}

// Activations by the hardware's exponential and reciprocal, which are exact to within 2^-21 of the
// result here: sums of ones and exponentials are never denormal, and infinite ones give zero.
__device__ __forceinline__ float sigmoid(float x) { return nearly_divide(1.0f, 1.0f + nearly_exp(-x)); }
// The error function to within 1.5e-7, which is added to one.
// Reference: Abramowitz and Stegun, Handbook of Mathematical Functions, 1964, 7.1.26.
__device__ __forceinline__ float gelu(float x) {
  float z = x * 0.7071067811865476f, a = fabsf(z), t = nearly_divide(1.0f, 1.0f + 0.3275911f * a);
  float sum = 1.421413741f + t * (-1.453152027f + t * 1.061405429f);
  sum = t * (0.254829592f + t * (-0.284496736f + t * sum));
  return 0.5f * x * (1.0f + copysignf(1.0f - sum * nearly_exp(-a * a), z));
}

// To the nearest byte. A float of 1.5 * 2^23 has no bits for fractions: adding it rounds, and leaves
// the whole number in the last bits, without the two conversions that are slow.
template <typename Type> __device__ __forceinline__ Type convert(float x) {
  float inside = fminf(255.0f - Type::ZERO, fmaxf(-Type::ZERO, x * Type::INVERSE));
  return Type{(unsigned char)(__float_as_uint(inside + 12582912.0f) + (unsigned)Type::ZERO)};
}
template <> __device__ __forceinline__ float convert<float>(float x) { return x; }
template <> __device__ __forceinline__ __half convert<__half>(float x) { return __float2half_rn(x); }
template <> __device__ __forceinline__ __nv_bfloat16 convert<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

template <typename Type> union Chunk {
  uint4 bits;
  unsigned words[4];
  Type at[16 / sizeof(Type)];
  __device__ Chunk() {}
};

// One number that another kernel has written.
template <typename Type> __device__ __forceinline__ Type load_fresh(const Type* from) {
  union {
    unsigned bits;
    Type value;
  } loaded;
  if constexpr (sizeof(Type) == 4) loaded.bits = load_fresh_32(from);
  else if constexpr (sizeof(Type) == 2) loaded.bits = load_fresh_16(from);
  else loaded.bits = load_fresh_8(from);
  return loaded.value;
}

// COUNT such neighbours as floats; whole vectors where COUNT allows it.
template <int COUNT, typename Type> __device__ __forceinline__ void read_fresh(float* to, const Type* from) {
  if constexpr (COUNT * sizeof(Type) >= 32 && COUNT % 2 == 0) {
    read_fresh<COUNT / 2>(to, from);
    read_fresh<COUNT / 2>(to + COUNT / 2, from + COUNT / 2);
  } else if constexpr (COUNT * sizeof(Type) == 16 || COUNT * sizeof(Type) == 8) {
    Chunk<Type> chunk;
    if constexpr (COUNT * sizeof(Type) == 16) chunk.bits = load_fresh_128(from);
    else *reinterpret_cast<uint2*>(chunk.at) = load_fresh_64(from);
#pragma unroll
    for (int e = 0; e < COUNT; ++e) to[e] = to_float(chunk.words, chunk.at, e);
  } else {
#pragma unroll
    for (int e = 0; e < COUNT; ++e) to[e] = to_float(load_fresh(from + e));
  }
}

// COUNT such neighbours as they are stored, so that few registers hold many.
template <int COUNT, typename Type> struct Held {
  static constexpr int BYTES = COUNT * sizeof(Type);
  union {
    unsigned words[(BYTES + 3) / 4];
    Type at[COUNT];
  };
  __device__ __forceinline__ Held() {}
  __device__ __forceinline__ void load(const Type* from) {
    if constexpr (BYTES % 16 == 0) {
#pragma unroll
      for (int i = 0; i < BYTES / 16; ++i) {
        uint4 v = load_fresh_128(from + i * (16 / sizeof(Type)));
        words[i * 4] = v.x, words[i * 4 + 1] = v.y, words[i * 4 + 2] = v.z, words[i * 4 + 3] = v.w;
      }
    } else if constexpr (BYTES == 8) {
      uint2 v = load_fresh_64(from);
      words[0] = v.x, words[1] = v.y;
    } else if constexpr (BYTES == 4 && COUNT == 2) {
      words[0] = load_fresh_32(from);
    } else {
#pragma unroll
      for (int e = 0; e < COUNT; ++e) at[e] = load_fresh(from + e);
    }
  }
  __device__ __forceinline__ float operator[](int e) const {
    if constexpr (BYTES % 4 == 0) return to_float(words, at, e);
    else return to_float(at[e]);
  }
};

// Calls a tile of ROWS x COLUMNS of a matrix into the second-level cache, line by line.
template <int ROWS, int COLUMNS, int PITCH, int THREADS_, typename Type>
__device__ __forceinline__ void fetch_ahead(const Type* from, int m0, int n0, int rows, int worker) {
  constexpr int LINE = 128 / sizeof(Type), LINES = (COLUMNS + LINE - 1) / LINE;
  from += (long long)blockIdx.z * rows * PITCH;
  for (int i = worker; i < ROWS * LINES; i += THREADS_) {
    int m = m0 + i / LINES, n = n0 + i % LINES * LINE;
    if (m < rows && n < PITCH) prefetch(from + (long long)m * PITCH + n);
  }
}
// The same of what belongs to columns.
template <int COLUMNS, int PITCH, typename Type>
__device__ __forceinline__ void fetch_columns(const Type* from, int n0, int worker) {
  constexpr int LINE = 128 / sizeof(Type);
  if (worker * LINE < COLUMNS && n0 + worker * LINE < PITCH) prefetch(from + n0 + worker * LINE);
}

// COUNT neighbours as floats, and back: whole vectors where COUNT allows it.
template <int COUNT, typename Type> __device__ __forceinline__ void read(float* to, const Type* from) {
  if constexpr (COUNT * sizeof(Type) >= 32 && COUNT % 2 == 0) {
    read<COUNT / 2>(to, from);
    read<COUNT / 2>(to + COUNT / 2, from + COUNT / 2);
  } else if constexpr (COUNT * sizeof(Type) == 16) {
    Chunk<Type> chunk;
    chunk.bits = *reinterpret_cast<const uint4*>(from);
#pragma unroll
    for (int e = 0; e < COUNT; ++e) to[e] = to_float(chunk.at[e]);
  } else if constexpr (COUNT * sizeof(Type) == 8) {
    Chunk<Type> chunk;
    *reinterpret_cast<uint2*>(chunk.at) = *reinterpret_cast<const uint2*>(from);
#pragma unroll
    for (int e = 0; e < COUNT; ++e) to[e] = to_float(chunk.at[e]);
  } else {
#pragma unroll
    for (int e = 0; e < COUNT; ++e) to[e] = to_float(from[e]);
  }
}
template <int COUNT, typename Type> __device__ __forceinline__ void write(Type* to, const float* from) {
  if constexpr (COUNT * sizeof(Type) == 32) {
    write<COUNT / 2>(to, from);
    write<COUNT / 2>(to + COUNT / 2, from + COUNT / 2);
  } else if constexpr (COUNT * sizeof(Type) == 16) {
    Chunk<Type> chunk;
#pragma unroll
    for (int e = 0; e < COUNT; ++e) chunk.at[e] = convert<Type>(from[e]);
    *reinterpret_cast<uint4*>(to) = chunk.bits;
  } else if constexpr (COUNT * sizeof(Type) == 8) {
    Chunk<Type> chunk;
#pragma unroll
    for (int e = 0; e < COUNT; ++e) chunk.at[e] = convert<Type>(from[e]);
    *reinterpret_cast<uint2*>(to) = *reinterpret_cast<uint2*>(chunk.at);
  } else if constexpr (COUNT * sizeof(Type) == 4 && COUNT == 2) {
    Chunk<Type> chunk;
    chunk.at[0] = convert<Type>(from[0]), chunk.at[1] = convert<Type>(from[1]);
    *reinterpret_cast<unsigned*>(to) = chunk.bits.x;
  } else {
#pragma unroll
    for (int e = 0; e < COUNT; ++e) to[e] = convert<Type>(from[e]);
  }
}

// COUNT numbers below 2^22 to the nearest bytes, from ZERO on.
template <int COUNT, int ZERO> __device__ __forceinline__ void write_bytes(void* to, const float* from) {
  unsigned words[COUNT / 4];
#pragma unroll
  for (int i = 0; i < COUNT / 4; ++i) {
    int steps[4];
#pragma unroll
    for (int e = 0; e < 4; ++e) steps[e] = (int)__float_as_uint(from[i * 4 + e] + 12582912.0f) - (0x4b400000 - ZERO);
    words[i] = pack_bytes(steps[0], steps[1], steps[2], steps[3]);
  }
  static_assert(COUNT == 4 || COUNT == 8 || COUNT == 16, "whole vectors");
  if constexpr (COUNT == 16) *reinterpret_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
  else if constexpr (COUNT == 8) *reinterpret_cast<uint2*>(to) = make_uint2(words[0], words[1]);
  else *reinterpret_cast<unsigned*>(to) = words[0];
}

// Make each float a TF32 number; for MODE 3, compute what is left of it, too. Tensor cores cut the last
// 13 bits off: adding half of what they stand for rounds. Conversions take longer than the products.
constexpr unsigned CUT = 0xffffe000u;
template <int COUNT> __device__ __forceinline__ void split(unsigned* big, unsigned* small) {
#pragma unroll
  for (int i = 0; i < COUNT; ++i) {
    float x = __uint_as_float(big[i]);
    if (MODE == 3) {
      big[i] += 0x1000u;
      small[i] = __float_as_uint(x - __uint_as_float(big[i] & CUT));
    } else {
      big[i] = round_tf32(x);
    }
  }
}

template <int MT, int NT>
__device__ __forceinline__ void multiply_fragments(Sum acc[MT][NT][4], unsigned fa[MT][4], unsigned fb[NT][2]) {
#if MODE == 2 || MODE == 3
  unsigned sa[MT][4], sb[NT][2];
  split<MT * 4>(&fa[0][0], &sa[0][0]);
  split<NT * 2>(&fb[0][0], &sb[0][0]);
#endif
#pragma unroll
  for (int i = 0; i < MT; ++i)
#pragma unroll
    for (int j = 0; j < NT; ++j) {
#if MODE == 3
      mma(acc[i][j], sa[i], fb[j]);
      mma(acc[i][j], fa[i], sb[j]);
#endif
      mma(acc[i][j], fa[i], fb[j]);
    }
}
