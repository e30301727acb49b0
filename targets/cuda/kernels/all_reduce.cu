// Adds up what each of several GPUs has of a tensor, so that all of them have the sum. Each sends
// its part to all others, into their memory, and adds up what it has and what it got, in the order of
// the GPUs: all get the same bits. What is sent must not overtake what is read: data are kept per
// block for two rounds in turn, and who has the data of one round knows that all have read those of
// the round before. Kernels of all GPUs do the same rounds with the same blocks.

typedef unsigned long long Number;

__device__ __forceinline__ unsigned char* area_of(const Number* communicator, int rank) {
  return reinterpret_cast<unsigned char*>(communicator[AREAS + rank]);
}
template <int COUNT, typename Type> __device__ __forceinline__ void store_held(unsigned char* to, const Held<COUNT, Type>& from) {
  if constexpr (sizeof from.words % 16 == 0) {
#pragma unroll
    for (int i = 0; i < (int)(sizeof from.words / 16); ++i) {
      const unsigned* w = from.words + i * 4;
      reinterpret_cast<uint4*>(to)[i] = make_uint4(w[0], w[1], w[2], w[3]);
    }
  } else if constexpr (sizeof from.words == 8) {
    *reinterpret_cast<uint2*>(to) = make_uint2(from.words[0], from.words[1]);
  } else {
#pragma unroll
    for (int e = 0; e < COUNT; ++e) reinterpret_cast<Type*>(to)[e] = from.at[e];
  }
}
OPERANDS

extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(PARAMETERS) {
  // None of these changes while GPUs work.
  const Number* communicator = reinterpret_cast<const Number*>(COMMUNICATOR);
  int rank = (int)communicator[RANK], ranks = (int)communicator[RANKS];
  bool joined = communicator[IS_JOINED] != 0;
  unsigned char* own = area_of(communicator, rank);
  wait_for_predecessor();
  unsigned* counter = reinterpret_cast<unsigned*>(own + COUNTERS) + blockIdx.x;
  unsigned round = joined ? load_fresh_32(counter) : 0;
  constexpr int PER_ROUND = THREADS * STEPS;
  // All threads take part in every round, with or without data: those of the next one are written
  // where others may still read those of the last but one.
  for (int first = blockIdx.x * PER_ROUND + threadIdx.x; first - (int)threadIdx.x < ITEMS; first += BLOCKS * PER_ROUND) {
    if (joined) ++round;
    size_t place = DATA + (size_t)ranks * (DATA_PER_RANK + (size_t)(blockIdx.x * 2 + (round & 1)) * BLOCK_BYTES);
    Held<V, X> mine[STEPS];
#pragma unroll
    for (int s = 0; s < STEPS; ++s) {
#pragma unroll
      for (int i = 0; i < (int)(sizeof mine[s].words / 4); ++i) mine[s].words[i] = 0;
      long long at = (long long)(first + s * THREADS) * V;
      if (first + s * THREADS < ITEMS) mine[s].load(X_POINTER + at);
    }
    for (int q = 0; q < ranks && joined; ++q) {
      if (q == rank) continue;
      unsigned char* to = area_of(communicator, q) + place + (size_t)rank * BLOCK_BYTES;
#pragma unroll
      for (int s = 0; s < STEPS; ++s) {
#if IS_SMALL
#pragma unroll
        for (int l = 0; l < LINES; ++l)
          store_line(to + (l * THREADS + threadIdx.x) * 16, mine[s].words[l * 2], LINE_HAS_TWO ? mine[s].words[l * 2 + 1] : 0u, round);
#else
        if (first + s * THREADS < ITEMS) store_held(to + (s * THREADS + threadIdx.x) * (V * sizeof(X)), mine[s]);
#endif
      }
    }
    Operands held[STEPS];
#pragma unroll
    for (int s = 0; s < STEPS; ++s) {
      Operands& o = held[s];
      long long at = (long long)(first + s * THREADS) * V;
      if (first + s * THREADS < ITEMS) {
        LOAD_OPERANDS
      }
    }
#if !IS_SMALL
    if (joined) {
      __syncthreads();
      if (threadIdx.x < ranks && threadIdx.x != rank) {
        size_t flags = FLAGS + (size_t)blockIdx.x * (MOST_RANKS * 4);
        send_signal(area_of(communicator, threadIdx.x) + flags + rank * 4, round);
        await_signal(own + flags + threadIdx.x * 4, round);
      }
      __syncthreads();
    }
#endif
    float sums[STEPS][V] = {};
    for (int q = 0; q < ranks; ++q) {
      Held<V, X> part[STEPS];
      if (!joined && q != rank) continue;
      const unsigned char* from = own + place + (size_t)q * BLOCK_BYTES;
#pragma unroll
      for (int s = 0; s < STEPS; ++s) {
        part[s] = mine[s];
        if (q == rank) continue;
#if IS_SMALL
#pragma unroll
        for (int l = 0; l < LINES; ++l) {
          uint2 words = await_line(from + (l * THREADS + threadIdx.x) * 16, round);
          part[s].words[l * 2] = words.x;
          if (LINE_HAS_TWO) part[s].words[l * 2 + 1] = words.y;
        }
#else
        if (first + s * THREADS < ITEMS)
          part[s].load(reinterpret_cast<const X*>(from) + (s * THREADS + threadIdx.x) * V);
#endif
      }
#pragma unroll
      for (int s = 0; s < STEPS; ++s)
#pragma unroll
        for (int e = 0; e < V; ++e) sums[s][e] += part[s][e];
    }
#pragma unroll
    for (int s = 0; s < STEPS; ++s) {
      if (first + s * THREADS >= ITEMS) continue;
      long long at = (long long)(first + s * THREADS) * V;
      int n = (int)(at % N);
      float(&v)[V] = sums[s];
      Operands& o = held[s];
      EPILOGUE
    }
  }
  __syncthreads();
  if (joined && threadIdx.x == 0) *counter = round;
}
