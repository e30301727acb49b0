// Words to and from memory that several GPUs share, each behind the other in the order that is
// written here. Tests put functions in C++ in their place.

// Two words and the round that they belong to: a line arrives as a whole or, as two halves each with
// the round, in any order.
__device__ __forceinline__ void store_line(void* to, unsigned x, unsigned y, unsigned round) {
  asm volatile("st.volatile.global.v4.u32 [%0], {%1, %3, %2, %3};" ::"l"(to), "r"(x), "r"(y), "r"(round) : "memory");
}
__device__ __forceinline__ uint2 await_line(const void* from, unsigned round) {
  unsigned x, y, first, second;
  do {
    asm volatile("ld.volatile.global.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(x), "=r"(first), "=r"(y), "=r"(second) : "l"(from) : "memory");
  } while (first != round || second != round);
  return make_uint2(x, y);
}
// What threads of this block have written before they met is there for whoever awaits this.
__device__ __forceinline__ void send_signal(void* to, unsigned round) {
  asm volatile("fence.acq_rel.sys;\nst.release.sys.global.u32 [%0], %1;" ::"l"(to), "r"(round) : "memory");
}
// That round or a later one.
__device__ __forceinline__ void await_signal(const void* from, unsigned round) {
  unsigned found;
  do {
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(found) : "l"(from) : "memory");
  } while ((int)(found - round) < 0);
}
