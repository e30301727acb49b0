// Products with weights of which two of every four neighbours are zero, on sparse tensor cores. The
// sparse factor must be the left one: columns of weights are the rows of what is computed, rows of
// data its columns. Where the numbers belong is in registers, two bits each.
// Reference: NVIDIA, PTX ISA 9.0 (wgmma.mma_async.sp, sparse matrix storage).

// Four words per thread lie behind the weights.
__device__ __forceinline__ uint4 places_of(unsigned b) { return load_shared_128(b + BN * ROW_BYTES + threadIdx.x * 16); }

__device__ __forceinline__ void multiply_sparse(Sum acc[MT][NT][4], unsigned a, unsigned b, int wn, uint4 places) {
#pragma unroll
  for (int pair = 0; pair < 2; ++pair)
#pragma unroll
    for (int i = 0; i < MT; ++i) {
      unsigned word = i == 0 ? (pair ? places.y : places.x) : (pair ? places.w : places.z);
      unsigned from = b + (wn + i * 64) * ROW_BYTES + pair * 64, data = a + pair * HALF_BYTES;
      wgmma_sparse<0>(&acc[i][0][0], from, data, word);
      wgmma_sparse<1>(&acc[i][0][0], from + 32, data + 64, word);
    }
}
