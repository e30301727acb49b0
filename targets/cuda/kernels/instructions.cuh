// PTX instructions that C++ has no words for. Tests put functions in C++ in their place.
// MODE chooses the type of mma: 0 half, 1 bfloat16, 2 and 3 TF32, 4 bytes times int8,
// 5 e4m3.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

// 16 bytes to shared memory behind the registers' back; zeros where there is nothing to copy.
__device__ __forceinline__ void copy_async(unsigned to, const void* from, bool valid) {
  int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes));
}
// Half of that.
__device__ __forceinline__ void copy_half_async(unsigned to, const void* from, bool valid) {
  int bytes = valid ? 8 : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(to), "l"(from), "r"(bytes));
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
__device__ __forceinline__ uint4 load_shared_128(unsigned from) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(from) : "memory");
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

#if MODE == 4
typedef int Sum;
#define SUM "+r"
#else
typedef float Sum;
#define SUM "+f"
#endif
#define MMA(SHAPE_AND_TYPES)                                                                       \
  asm volatile("mma.sync.aligned." SHAPE_AND_TYPES " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, " \
               "{%0, %1, %2, %3};"                                                                 \
               : SUM(c[0]), SUM(c[1]), SUM(c[2]), SUM(c[3])                                    \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))

__device__ __forceinline__ void mma(Sum* c, const unsigned* a, const unsigned* b) {
#if MODE == 0
  MMA("m16n8k16.row.col.f32.f16.f16.f32");
#elif MODE == 1
  MMA("m16n8k16.row.col.f32.bf16.bf16.f32");
#elif MODE == 4
  MMA("m16n8k32.row.col.s32.u8.s8.s32");
#elif MODE == 5
  MMA("m16n8k32.row.col.f32.e4m3.e4m3.f32");
#else
  MMA("m16n8k8.row.col.f32.tf32.tf32.f32");
#endif
}

// By the hardware's exponential and reciprocal.
__device__ __forceinline__ float nearly_exp(float x) { return __expf(x); }
// Powers below the smallest normal number are zero.
__device__ __forceinline__ float nearly_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float nearly_divide(float x, float y) { return __fdividef(x, y); }

// Four integers as bytes; what is below or above them is the lowest or highest.
__device__ __forceinline__ unsigned pack_bytes(int a, int b, int c, int d) {
  unsigned word;
  asm("{\n.reg .b32 high;\ncvt.pack.sat.u8.s32.b32 high, %4, %3, 0;\ncvt.pack.sat.u8.s32.b32 %0, %2, %1, high;\n}"
      : "=r"(word)
      : "r"(a), "r"(b), "r"(c), "r"(d));
  return word;
}

// Four numbers as e4m3; what is above the largest becomes that.
__device__ __forceinline__ unsigned pack_e4m3(float a, float b, float c, float d) {
  unsigned word;
#if __CUDA_ARCH__ >= 890
  asm("{\n.reg .b16 low, high;\ncvt.rn.satfinite.e4m3x2.f32 low, %2, %1;\ncvt.rn.satfinite.e4m3x2.f32 high, %4, %3;\n"
      "mov.b32 %0, {low, high};\n}"
      : "=r"(word)
      : "f"(a), "f"(b), "f"(c), "f"(d));
#else
  word = 0;  // never called: such GPUs have no products of these
#endif
  return word;
}

// A kernel begins while the one before it ends (programmatic dependent launch). Until this, nothing
// but weights may be read, and nothing written. From here on the next kernel may begin: not before,
// or it could begin while the last but one is running, and find in its cache what that had read.
__device__ __forceinline__ void wait_for_predecessor() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}
// Loads of what other kernels have written: the compiler moves plain loads of what is constant to it
// in front of the wait.
#define FRESH(SIZE, TYPE, REGISTER)                                                       \
  __device__ __forceinline__ TYPE load_fresh_##SIZE(const void* from) {                  \
    TYPE v;                                                                               \
    asm volatile("ld.global.cg.u" #SIZE " %0, [%1];" : "=" REGISTER(v) : "l"(from));     \
    return v;                                                                             \
  }
FRESH(8, unsigned short, "h")
FRESH(16, unsigned short, "h")
FRESH(32, unsigned, "r")
__device__ __forceinline__ uint2 load_fresh_64(const void* from) {
  uint2 v;
  asm volatile("ld.global.cg.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(from));
  return v;
}
__device__ __forceinline__ uint4 load_fresh_128(const void* from) {
  uint4 v;
  asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from));
  return v;
}
__device__ __forceinline__ void prefetch(const void* from) { asm volatile("prefetch.global.L2 [%0];" ::"l"(from)); }

// What blocks of a cluster need to add up their sums: a barrier, and each other's shared memory.
__device__ __forceinline__ unsigned char* shared_memory() {
  extern __shared__ __align__(1024) unsigned char memory[];
  return memory;
}
#if SPLIT > 1
__device__ __forceinline__ void meet_cluster() {
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}
// The same where no memory has to be in order: the full barrier costs most of a microsecond.
__device__ __forceinline__ void pass_cluster() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}
__device__ __forceinline__ float4 load_cluster(unsigned from, unsigned rank) {
  float4 v;
  unsigned there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(from), "r"(rank));
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(there)
               : "memory");
  return v;
}
#endif

// Products of tiles by four warps together (Hopper's wgmma). Tiles are rows of 128 bytes, whose
// chunks are permuted within groups of eight rows: what the hardware calls a swizzle of 128 bytes. Or of
// half as many, permuted within 512 bytes.
#ifndef ROW_BYTES
#define ROW_BYTES 128
#endif
#ifdef WGMMA
__device__ __forceinline__ void show_to_wgmma() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
__device__ __forceinline__ void begin_wgmma() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void commit_wgmma() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int PENDING> __device__ __forceinline__ void wait_wgmma() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}
// Says that a sum may have changed: the compiler knows nothing of products in flight.
__device__ __forceinline__ void finished(Sum& sum) { asm volatile("" : SUM(sum)::"memory"); }
// Until here, a factor in a register was needed.
__device__ __forceinline__ void finished(unsigned& factor) { asm volatile("" : "+r"(factor)::"memory"); }
__device__ __forceinline__ unsigned long long tile_at(unsigned address, unsigned block = 16) {
  // Groups of eight rows lie behind each other, blocks of columns so many bytes apart; the last field says
  // how chunks are permuted.
  constexpr unsigned long long GROUP = ROW_BYTES / 2, PERMUTED = ROW_BYTES == 128 ? 1 : 2;
  return (unsigned long long)((address & 0x3ffff) >> 4) | (unsigned long long)(block >> 4) << 16 | GROUP << 32 | PERMUTED << 62;
}
// Sums begin with zero unless it adds.
__device__ __forceinline__ void wgmma(Sum* c, unsigned a, unsigned b, bool adds = true) {
  unsigned long long at = tile_at(a), bt = tile_at(b);
  WGMMA
}
// The same of a left factor half of which are zeros; `places` says of two steps where numbers belong.
#ifdef WGMMA_SPARSE
template <int STEP> __device__ __forceinline__ void wgmma_sparse(Sum* c, unsigned a, unsigned b, unsigned places) {
  unsigned long long at = tile_at(a), bt = tile_at(b);
  WGMMA_SPARSE
}
#endif
// The same with rows of the left factor in registers.
#ifdef WGMMA_ROWS
__device__ __forceinline__ void wgmma_rows(Sum* c, const unsigned* a, unsigned b) {
  unsigned long long bt = tile_at(b);
  WGMMA_ROWS
}
#endif
// And rows of the right one across the depth, in blocks of 64 columns.
#ifdef WGMMA_VALUES
__device__ __forceinline__ void wgmma_values(Sum* c, const unsigned* a, unsigned b) {
  unsigned long long bt = tile_at(b, V_BLOCK);
  WGMMA_VALUES
}
#endif
#endif

// Tiles fetched by the copy engine, and barriers that count the bytes that have arrived. An address
// of shared memory means the same place in every block of the cluster that `mask` names.
#ifdef STREAMED
struct __align__(64) TensorMap {
  unsigned char opaque[128];
};
__device__ __forceinline__ void init_barrier(unsigned bar, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count) : "memory");
}
__device__ __forceinline__ void show_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ __forceinline__ void wait_barrier(unsigned bar, unsigned turn) {
  asm volatile("{\n.reg .pred p;\nWAIT:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra DONE;\nbra WAIT;\nDONE:\n}" ::"r"(bar), "r"(turn)
               : "memory");
}
__device__ __forceinline__ void arrive(unsigned bar) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}
__device__ __forceinline__ void expect(unsigned bar, int bytes) {
  asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}
__device__ __forceinline__ void arrive_and_expect(unsigned bar, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}
__device__ __forceinline__ void arrive_there(unsigned bar, unsigned rank) {
  asm volatile("{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\nmbarrier.arrive.shared::cluster.b64 _, [there];\n}" ::"r"(bar), "r"(rank)
               : "memory");
}
#define FETCH "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
#define FETCH_MATRIX "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
template <bool ALONE>
__device__ __forceinline__ void fetch(unsigned to, const void* from, int bytes, unsigned bar, unsigned mask) {
  if (ALONE) asm volatile(FETCH " [%0], [%1], %2, [%3];" ::"r"(to), "l"(from), "r"(bytes), "r"(bar) : "memory");
  else
    asm volatile(FETCH ".multicast::cluster [%0], [%1], %2, [%3], %4;" ::"r"(to), "l"(from), "r"(bytes), "r"(bar), "h"((unsigned short)mask)
                 : "memory");
}
template <bool ALONE>
__device__ __forceinline__ void fetch_matrix(unsigned to, const TensorMap& map, int column, int row, unsigned bar, unsigned mask) {
  if (ALONE) asm volatile(FETCH_MATRIX " [%0], [%1, {%2, %3}], [%4];" ::"r"(to), "l"(&map), "r"(column), "r"(row), "r"(bar) : "memory");
  else
    asm volatile(FETCH_MATRIX ".multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to), "l"(&map), "r"(column), "r"(row), "r"(bar), "h"((unsigned short)mask)
                 : "memory");
}
// The same of patches, one after the other from the one that begins at `at`: of each, the pixel that
// lies so far across and down. Where there is none, it is zeros.
struct Pixel {
  int w, h, image;
};
#define FETCH_PATCHES "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes"
template <bool ALONE>
__device__ __forceinline__ void fetch_patches(
    unsigned to, const TensorMap& map, int channel, Pixel at, int across, int down, unsigned bar, unsigned mask) {
  if (ALONE)
    asm volatile(FETCH_PATCHES " [%0], [%1, {%2, %3, %4, %5}], [%6], {%7, %8};" ::"r"(to), "l"(&map), "r"(channel), "r"(at.w), "r"(at.h), "r"(at.image), "r"(bar), "h"((unsigned short)across), "h"((unsigned short)down)
                 : "memory");
  else
    asm volatile(FETCH_PATCHES ".multicast::cluster [%0], [%1, {%2, %3, %4, %5}], [%6], {%7, %8}, %9;" ::"r"(to), "l"(&map), "r"(channel), "r"(at.w), "r"(at.h), "r"(at.image), "r"(bar), "h"((unsigned short)across), "h"((unsigned short)down), "h"((unsigned short)mask)
                 : "memory");
}
template <int COUNT> __device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}
template <int COUNT> __device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}
#endif
