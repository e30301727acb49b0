// What kernels on tensor cores share: conversions, copies to shared memory, matrix fragments.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename Type> __device__ __forceinline__ Type convert(float x);
template <> __device__ __forceinline__ float convert<float>(float x) { return x; }
template <> __device__ __forceinline__ __half convert<__half>(float x) { return __float2half_rn(x); }
template <> __device__ __forceinline__ __nv_bfloat16 convert<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

template <typename Type> union Chunk {
  uint4 bits;
  Type at[16 / sizeof(Type)];
  __device__ Chunk() {}
};

// COUNT neighbours as floats, and back: whole vectors where COUNT allows it.
template <int COUNT, typename Type> __device__ __forceinline__ void read(float* to, const Type* from) {
  if constexpr (COUNT * sizeof(Type) == 32) {
    read<COUNT / 2>(to, from);
    read<COUNT / 2>(to + COUNT / 2, from + COUNT / 2);
  } else if constexpr (COUNT * sizeof(Type) == 16) {
    Chunk<Type> chunk;
    chunk.bits = *reinterpret_cast<const uint4*>(from);
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
  } else {
#pragma unroll
    for (int e = 0; e < COUNT; ++e) to[e] = convert<Type>(from[e]);
  }
}

// 16 bytes to shared memory behind the registers' back; zeros where there is nothing to copy.
__device__ __forceinline__ void copy_async(unsigned to, const void* from, bool valid) {
  int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes));
}
__device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;"); }
template <int PENDING> __device__ __forceinline__ void wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}
__device__ __forceinline__ void store_shared(unsigned to, uint4 v) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
               : "memory");
}
__device__ __forceinline__ unsigned load_shared(unsigned from) {
  unsigned v;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(from) : "memory");
  return v;
}
__device__ __forceinline__ void load_matrix(unsigned* to, unsigned from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(from)
               : "memory");
}
__device__ __forceinline__ void load_matrix_transposed(unsigned* to, unsigned from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(from)
               : "memory");
}

__device__ __forceinline__ unsigned round_tf32(float x) {
  unsigned bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
}

#define MMA(SHAPE_AND_TYPES)                                                                       \
  asm volatile("mma.sync.aligned." SHAPE_AND_TYPES " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, " \
               "{%0, %1, %2, %3};"                                                                 \
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                    \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))

__device__ __forceinline__ void mma(float* c, const unsigned* a, const unsigned* b) {
#if MODE == 0
  MMA("m16n8k16.row.col.f32.f16.f16.f32");
#elif MODE == 1
  MMA("m16n8k16.row.col.f32.bf16.bf16.f32");
#else
  MMA("m16n8k8.row.col.f32.tf32.tf32.f32");
#endif
}

// Split each float into a TF32 number and, for MODE 3, the TF32 number nearest to the rest.
template <int COUNT> __device__ __forceinline__ void split(unsigned* big, unsigned* small) {
#pragma unroll
  for (int i = 0; i < COUNT; ++i) {
    float x = __uint_as_float(big[i]);
    big[i] = round_tf32(x);
    if (MODE == 3) small[i] = round_tf32(x - __uint_as_float(big[i]));
  }
}

template <int MT, int NT>
__device__ __forceinline__ void multiply_fragments(float acc[MT][NT][4], unsigned fa[MT][4], unsigned fb[NT][2]) {
#if MODE >= 2
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
